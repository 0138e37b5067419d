use std::path::PathBuf;
use std::sync::Arc;

use crate::Revision;

/// Why the store did not do as asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// Who wrote does not lead, or no longer: it must stop, nothing was changed.
    #[error("not the leader: {}", holder.as_deref().map_or("nobody leads now".to_owned(), |h| format!("{h} leads now")))]
    NotLeader {
        /// Who leads now.
        holder: Option<String>,
    },
    /// A watch asked for changes that are no longer kept: read the state again, then watch from there.
    #[error("changes before revision {oldest} are no longer kept; read again and watch from there")]
    Compacted {
        /// First revision still kept.
        oldest: Revision,
    },
    /// The lease has expired, was revoked or never was.
    #[error("lease {0} does not exist or has expired")]
    LeaseNotFound(u64),
    /// Another process has the file open.
    #[error("{} is in use by another process; stop it, or choose another data folder", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The file cannot be opened.
    #[error("cannot open the store {}: {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the backend said.
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// A key, value or transaction is outside the limits.
    #[error("{0}")]
    Invalid(String),
    /// The store does not answer. Nothing was changed.
    #[error("the store cannot be reached: {0}")]
    Unreachable(String),
    /// The store did not answer a write in time. Whether it was made is unknown.
    #[error("the store did not say whether it made a write: {0}")]
    Unknown(String),
    /// The store has been closed.
    #[error("the store is closed")]
    Closed,
    /// The backend failed. Whether a write was made is unknown.
    #[error("the store failed: {0}")]
    Backend(Arc<dyn std::error::Error + Send + Sync>),
}
