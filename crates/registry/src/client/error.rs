use std::path::PathBuf;

use espalier_auth::AccessError;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::ManifestError;

/// Why a push or pull did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The endpoint, the token or a certificate cannot be used.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// Nobody answers.
    #[error("cannot reach the registry at {endpoint}: {problem}; is it running?")]
    Unreachable {
        /// Where.
        endpoint: String,
        /// What the transport said.
        problem: String,
    },
    /// The registry refused, or retries ran out.
    #[error("{operation} at {endpoint} failed: {} ({:?})", status.message(), status.code())]
    Rpc {
        /// What was done, and with which file.
        operation: String,
        /// Where.
        endpoint: String,
        /// The answer.
        status: Box<Status>,
    },
    /// Bytes are not those that the digest names.
    #[error("{file}: {problem}")]
    Corrupt {
        /// The file of the checkpoint.
        file: String,
        /// What is wrong.
        problem: String,
    },
    /// Nobody who is trusted signed the checkpoint.
    #[error("{reference} is not trusted: {problem}")]
    Untrusted {
        /// What was asked for.
        reference: String,
        /// What is missing.
        problem: String,
    },
    /// A local file or folder cannot be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The folder cannot be used.
    #[error("{}: {problem}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// The folder or the registry's answer makes no manifest.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
}

impl ClientError {
    /// Code of the registry's answer, if it answered.
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Rpc { status, .. } => Some(status.code()),
            Self::Unreachable { .. } => Some(Code::Unavailable),
            _ => None,
        }
    }

    /// Reason in the answer's `ErrorInfo`, such as `STALE_GENERATION`.
    pub fn reason(&self) -> Option<String> {
        match self {
            Self::Rpc { status, .. } => status.get_details_error_info().map(|info| info.reason),
            _ => None,
        }
    }

    /// Whether the same call may succeed later: the registry was away, or busy.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Rpc { status, .. } => super::retry::is_transient(status),
            Self::Unreachable { .. } => true,
            _ => false,
        }
    }
}
