use std::collections::HashMap;
use std::time::Duration;

use espalier_store::StoreError;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, PreconditionViolation, StatusExt as _};

use crate::{Digest, ManifestError};

/// Domain of the `ErrorInfo` in every error of the registry.
pub const ERROR_DOMAIN: &str = "registry.espalier";

/// Most missing chunks that an error names; it says how many more there are.
const MAX_NAMED: usize = 20;

/// Why the registry refused.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// A field of the request is wrong.
    #[error("{field}: {problem}")]
    Argument {
        /// The field's path.
        field: String,
        /// What is wrong.
        problem: String,
    },
    /// There is no such thing.
    #[error("{what} `{name}` does not exist")]
    NotFound {
        /// Kind of thing.
        what: &'static str,
        /// Its name, as asked for.
        name: String,
    },
    /// Bytes that were sent are not the chunk.
    #[error("chunk {digest}: {problem}; send it again")]
    Mismatch {
        /// As declared.
        digest: Digest,
        /// What is wrong with the bytes.
        problem: String,
    },
    /// A stored chunk or manifest is damaged.
    #[error(
        "stored {digest} is damaged: {problem}; restore it with `espalier registry fsck --repair`, or push the checkpoint again"
    )]
    Damaged {
        /// What it should have.
        digest: Digest,
        /// What is wrong.
        problem: String,
    },
    /// A bound on work in flight is reached.
    #[error("too many {what} at once: at most {limit}")]
    Busy {
        /// Of what.
        what: &'static str,
        /// How many.
        limit: usize,
    },
    /// The disk is too full.
    #[error(
        "not enough space for {needed} bytes: {available} are available; free some on the registry's disk"
    )]
    NoSpace {
        /// Bytes that were to be written, and the reserve.
        needed: u64,
        /// Bytes that can be.
        available: u64,
    },
    /// The registry's own bound is reached.
    #[error(
        "the quota of {quota} bytes leaves no room for {needed} more: {stored} are stored; delete checkpoints or raise it"
    )]
    Quota {
        /// Bytes that were to be written.
        needed: u64,
        /// Bytes stored.
        stored: u64,
        /// Most that may be.
        quota: u64,
    },
    /// Chunks of a manifest were not written.
    #[error("{} of the manifest's chunks are missing", .0.len())]
    MissingChunks(Vec<Digest>),
    /// Something keeps a checkpoint from being deleted.
    #[error("{name}@{digest} cannot be deleted: {problem}")]
    Kept {
        /// Name.
        name: String,
        /// The checkpoint.
        digest: Digest,
        /// What, and how to change it.
        problem: String,
    },
    /// The alias is protected.
    #[error("alias `{name}:{alias}` is protected; take the protection away, or force the change")]
    Protected {
        /// Name.
        name: String,
        /// Alias.
        alias: String,
    },
    /// The alias is not as expected.
    #[error("alias `{alias}` of `{name}` is {}, not as expected", found.map_or("absent".to_owned(), |d| d.to_string()))]
    AliasMoved {
        /// Name.
        name: String,
        /// Alias.
        alias: String,
        /// What it is.
        found: Option<Digest>,
    },
    /// Other writers were faster each time.
    #[error("the state changed under each of {0} attempts; try again")]
    Contention(u32),
    /// The job refused to commit the steps.
    #[error("{}", .0.message())]
    Hook(Box<Status>),
    /// A mirror's upstream does not answer.
    #[error("the mirror cannot reach its upstream: {problem}")]
    Away {
        /// Where, and what the transport said.
        problem: String,
    },
    /// A mirror's upstream refused.
    #[error("{}", .0.message())]
    Upstream(Box<Status>),
    /// A mirror was asked to change something.
    #[error("this is a mirror, which only reads: push and change things at {upstream}")]
    ReadOnly {
        /// Where that is done.
        upstream: String,
    },
    /// A mirror was asked by a mirror.
    #[error("this is a mirror itself: mirror the registry, and nothing by way of another mirror")]
    MirrorOfMirror,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A record in the store cannot be read.
    #[error("record `{key}` is damaged: {problem}")]
    Record {
        /// Its key.
        key: String,
        /// What is wrong.
        problem: String,
    },
    /// An object of a bucket cannot be read or written.
    #[error("cannot {action} {object}: {problem}; {remedy}")]
    Bucket {
        /// What was tried.
        action: &'static str,
        /// `s3://bucket/key`.
        object: String,
        /// What the store said.
        problem: String,
        /// What to do.
        remedy: &'static str,
        /// It may work later.
        transient: bool,
    },
    /// A file cannot be read or written.
    #[error("cannot {action}: {source}")]
    Io {
        /// What was tried, and with what.
        action: String,
        /// What the system said.
        source: std::io::Error,
    },
}

impl RegistryError {
    pub(crate) fn argument(field: impl Into<String>, problem: impl ToString) -> Self {
        Self::Argument {
            field: field.into(),
            problem: problem.to_string(),
        }
    }

    pub(crate) fn io(action: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let action = action.into();
        move |source| Self::Io { action, source }
    }

    /// (code, `ErrorInfo` reason, how long to wait before trying again).
    fn class(&self) -> (Code, &'static str, Option<Duration>) {
        let soon = Some(Duration::from_millis(500));
        match self {
            Self::Argument { .. } => (Code::InvalidArgument, "INVALID_ARGUMENT", None),
            Self::NotFound { .. } => (Code::NotFound, "NOT_FOUND", None),
            Self::Mismatch { .. } => (Code::DataLoss, "DIGEST_MISMATCH", None),
            Self::Damaged { .. } => (Code::DataLoss, "DAMAGED", None),
            Self::Busy { .. } => (Code::ResourceExhausted, "BUSY", soon),
            Self::NoSpace { .. } => (Code::ResourceExhausted, "NO_SPACE", None),
            Self::Quota { .. } => (Code::ResourceExhausted, "QUOTA", None),
            Self::MissingChunks(_) => (Code::FailedPrecondition, "MISSING_CHUNKS", None),
            Self::Kept { .. } => (Code::FailedPrecondition, "KEPT", None),
            Self::Protected { .. } => (Code::FailedPrecondition, "ALIAS_PROTECTED", None),
            Self::AliasMoved { .. } => (Code::Aborted, "ALIAS_MOVED", None),
            Self::Contention(_) => (Code::Unavailable, "CONTENTION", soon),
            Self::Store(StoreError::NotLeader { .. }) => (Code::Unavailable, "NOT_LEADER", soon),
            Self::Store(StoreError::Closed) => (Code::Unavailable, "CLOSED", soon),
            Self::Store(StoreError::Unreachable(_) | StoreError::Unknown(_)) => {
                (Code::Unavailable, "STORE_UNREACHABLE", soon)
            }
            Self::Store(StoreError::Invalid(_)) => {
                (Code::InvalidArgument, "INVALID_ARGUMENT", None)
            }
            Self::Hook(status) => (status.code(), "JOB_REFUSED", None),
            Self::Upstream(status) => (status.code(), "UPSTREAM_REFUSED", None),
            Self::Away { .. } => (
                Code::Unavailable,
                "UPSTREAM_UNREACHABLE",
                Some(Duration::from_secs(1)),
            ),
            Self::ReadOnly { .. } => (Code::FailedPrecondition, "READ_ONLY_MIRROR", None),
            Self::MirrorOfMirror => (Code::FailedPrecondition, "MIRROR_OF_MIRROR", None),
            Self::Bucket {
                transient: true, ..
            } => (Code::Unavailable, "STORAGE_UNREACHABLE", soon),
            Self::Store(_) | Self::Record { .. } | Self::Bucket { .. } | Self::Io { .. } => {
                (Code::Internal, "INTERNAL", None)
            }
        }
    }
}

impl From<ManifestError> for RegistryError {
    fn from(error: ManifestError) -> Self {
        match error {
            ManifestError::Field { field, problem } => {
                Self::argument(format!("manifest.{field}"), problem)
            }
            error => Self::argument("manifest", error),
        }
    }
}

impl From<RegistryError> for Status {
    fn from(error: RegistryError) -> Self {
        let error = match error {
            // The job's, or the mirrored registry's, own words and details.
            RegistryError::Hook(status) | RegistryError::Upstream(status) => return *status,
            error => error,
        };
        let (code, reason, retry) = error.class();
        if code == Code::Internal {
            tracing::error!(%error, "request failed");
        }
        let mut metadata = HashMap::new();
        let mut details = ErrorDetails::new();
        match &error {
            RegistryError::Argument { field, problem } => {
                details.add_bad_request_violation(field, problem);
            }
            RegistryError::Damaged { digest, .. } | RegistryError::Mismatch { digest, .. } => {
                metadata.insert("digest".to_owned(), digest.to_string());
            }
            RegistryError::AliasMoved { found, .. } => {
                let found = found.map(|d| d.to_string()).unwrap_or_default();
                metadata.insert("alias_digest".to_owned(), found);
            }
            RegistryError::ReadOnly { upstream } => {
                metadata.insert("upstream".to_owned(), upstream.clone());
            }
            RegistryError::MissingChunks(missing) => {
                details.set_precondition_failure(violations(missing));
            }
            _ => {}
        }
        details.set_error_info(reason, ERROR_DOMAIN, metadata);
        if let Some(delay) = retry {
            details.set_retry_info(Some(delay));
        }
        Self::with_error_details(code, error.to_string(), details)
    }
}

fn violations(missing: &[Digest]) -> Vec<PreconditionViolation> {
    let more = missing.len().saturating_sub(MAX_NAMED);
    let named = missing.iter().take(MAX_NAMED).map(|digest| {
        PreconditionViolation::new("MISSING_CHUNK", digest.to_string(), "write it first")
    });
    let rest = (more > 0)
        .then(|| PreconditionViolation::new("MISSING_CHUNK", "", format!("and {more} more")));
    named.chain(rest).collect()
}
