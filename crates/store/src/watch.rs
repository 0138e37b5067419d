use async_trait::async_trait;

use crate::{Entry, Revision, StoreError};

/// A change of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The key got this value.
    Put(Entry),
    /// The key lost its value: by a delete, or with its lease.
    Delete {
        /// The key.
        key: String,
    },
}

impl Change {
    /// The key changed.
    pub fn key(&self) -> &str {
        match self {
            Self::Put(entry) => &entry.key,
            Self::Delete { key } => key,
        }
    }
}

/// Everything that one transaction changed under the watched prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changes {
    /// The transaction.
    pub revision: Revision,
    /// At least one, in the order of the transaction.
    pub changes: Vec<Change>,
}

/// Changes under a prefix, in the order of revisions, none missing. It buffers nothing: a slow
/// reader reads the change log later, and falls behind it at worst.
pub struct Watch(Box<dyn WatchSource>);

impl Watch {
    pub(crate) fn new(source: impl WatchSource + 'static) -> Self {
        Self(Box::new(source))
    }

    /// Waits for the next transaction that changes something under the prefix. Cancel-safe.
    ///
    /// # Errors
    /// [`StoreError::Compacted`] when the reader fell behind the change log; [`StoreError::Closed`].
    pub async fn next(&mut self) -> Result<Changes, StoreError> {
        self.0.next().await
    }
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").finish_non_exhaustive()
    }
}

#[async_trait]
pub(crate) trait WatchSource: Send {
    async fn next(&mut self) -> Result<Changes, StoreError>;
}
