//! Errors of the services as gRPC statuses with details.

use std::collections::HashMap;
use std::time::Duration;

use espalier_job::Problems;
use espalier_proto::{LEADER, NOT_LEADER};
use espalier_store::StoreError;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::auth::Refusal;
use crate::error::Error;
use crate::ledger::LedgerError;

/// Domain of the `ErrorInfo` in every error.
pub(crate) const DOMAIN: &str = "coordinator.espalier";

/// When to try again after an error that passes.
const RETRY: Duration = Duration::from_millis(500);

/// Why `JobService` did not do as asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JobsError {
    /// A field of the request is wrong.
    #[error("{field}: {problem}")]
    Argument {
        field: &'static str,
        problem: String,
    },
    /// The job file is wrong.
    #[error("the job file has {} problem(s):\n{problems}", problems.0.len())]
    Spec { problems: Problems },
    /// The job file names files relative to a folder that only the client knows.
    #[error("the job file has relative paths, which mean nothing on another machine: {}", .0.join(", "))]
    RelativePaths(Vec<&'static str>),
    /// Too many streams are open.
    #[error("{0} streams are open, which is the most this coordinator serves")]
    TooManyStreams(usize),
    /// The coordinator failed.
    #[error(transparent)]
    Inner(#[from] Error),
}

/// Why `WorkerService` ended a session or did not answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WorkersError {
    /// Fields of a message are wrong.
    #[error("{}", .0.iter().map(|(field, problem)| format!("{field} {problem}")).collect::<Vec<_>>().join("; "))]
    Arguments(Vec<(String, String)>),
    /// The worker's stream broke.
    #[error("the worker's stream broke: {}", .0.message())]
    Stream(Status),
    /// The worker is another's.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The coordinator is going down.
    #[error("the coordinator is stopping")]
    Stopping,
    /// The coordinator failed.
    #[error(transparent)]
    Inner(#[from] Error),
}

impl JobsError {
    pub(crate) fn argument(field: &'static str, problem: impl Into<String>) -> Self {
        Self::Argument {
            field,
            problem: problem.into(),
        }
    }
}

impl WorkersError {
    pub(crate) fn argument(field: &str, problem: &str) -> Self {
        Self::Arguments(vec![(field.to_owned(), problem.to_owned())])
    }
}

impl From<JobsError> for Status {
    fn from(error: JobsError) -> Self {
        let text = error.to_string();
        match error {
            JobsError::Argument { field, problem } => {
                bad_request(text, [(field.to_owned(), problem)])
            }
            JobsError::Spec { problems } => {
                let fields = problems.0.iter().map(|problem| {
                    let path = match problem.path.as_str() {
                        "" => "spec_toml".to_owned(),
                        path => format!("spec_toml.{path}"),
                    };
                    (path, problem.message.clone())
                });
                bad_request(text, fields)
            }
            JobsError::RelativePaths(fields) => {
                let fields = fields.into_iter().map(|field| {
                    (
                        format!("spec_toml.{field}"),
                        "must be an absolute path".to_owned(),
                    )
                });
                bad_request(text, fields)
            }
            JobsError::TooManyStreams(_) => {
                status(Code::ResourceExhausted, text, "TOO_MANY_STREAMS", true)
            }
            JobsError::Inner(error) => error.into(),
        }
    }
}

impl From<WorkersError> for Status {
    fn from(error: WorkersError) -> Self {
        let text = error.to_string();
        match error {
            WorkersError::Arguments(fields) => bad_request(text, fields),
            WorkersError::Stream(_) => status(Code::Aborted, text, "STREAM_BROKEN", true),
            WorkersError::Refused(refusal) => refusal.into(),
            WorkersError::Stopping => Error::Stopping.into(),
            WorkersError::Inner(error) => error.into(),
        }
    }
}

impl From<LedgerError> for Status {
    fn from(error: LedgerError) -> Self {
        let text = error.to_string();
        match error {
            LedgerError::Stale { job, last, .. } => {
                let mut details = info("STALE_GENERATION", [("last_generation", last.to_string())]);
                details.add_precondition_failure_violation(
                    "GENERATION",
                    job.as_str(),
                    "the coordinator has ended this gang; stop its ranks",
                );
                Self::with_error_details(Code::Aborted, text, details)
            }
            LedgerError::Argument { field, problem } => {
                bad_request(text, [(field.to_owned(), problem)])
            }
            LedgerError::Inner(error) => error.into(),
        }
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let text = error.to_string();
        let (code, reason, retry) = match &error {
            Error::NoSuchJob(_) => (Code::NotFound, "NO_SUCH_JOB", false),
            Error::NoSuchWorker(_) => (Code::NotFound, "NO_SUCH_WORKER", false),
            Error::NoSuchQueue(_) => (Code::NotFound, "NO_SUCH_QUEUE", false),
            Error::UnknownQueue { .. } => {
                return bad_request(
                    text.clone(),
                    [("spec_toml.resources.queue".to_owned(), text)],
                );
            }
            Error::WrongState { .. } => (Code::FailedPrecondition, "WRONG_STATE", false),
            Error::QueueInUse { .. } => (Code::FailedPrecondition, "QUEUE_IN_USE", false),
            Error::TooManyQueues(_) => (Code::ResourceExhausted, "TOO_MANY_QUEUES", false),
            Error::RequestReused(_) => (Code::AlreadyExists, "REQUEST_REUSED", false),
            Error::QueueFull(_) => (Code::ResourceExhausted, "QUEUE_FULL", true),
            Error::TooManyWorkers(_) => (Code::ResourceExhausted, "TOO_MANY_WORKERS", true),
            Error::Contended { .. } => (Code::Unavailable, "CONTENTION", true),
            Error::Stopping | Error::Store(StoreError::Closed) => {
                (Code::Unavailable, "STOPPING", true)
            }
            Error::Busy => (Code::Unavailable, "BUSY", true),
            Error::Store(StoreError::NotLeader { holder }) => {
                return not_leader(text, holder.clone());
            }
            Error::Store(StoreError::Unreachable(_) | StoreError::Unknown(_)) => {
                (Code::Unavailable, "STORE_UNREACHABLE", true)
            }
            Error::Store(_) | Error::Unreadable(_) | Error::Illegal(_) => {
                tracing::error!(%error, "request failed");
                (Code::Internal, "INTERNAL", false)
            }
        };
        status(code, text, reason, retry)
    }
}

/// To be asked of another coordinator, so that asking this one again does not help.
fn not_leader(text: String, leader: Option<String>) -> Status {
    let metadata = leader.map(|leader| (LEADER.to_owned(), leader));
    let details = ErrorDetails::with_error_info(
        NOT_LEADER,
        DOMAIN,
        metadata.into_iter().collect::<HashMap<_, _>>(),
    );
    Status::with_error_details(Code::FailedPrecondition, text, details)
}

pub(crate) fn bad_request(
    text: String,
    fields: impl IntoIterator<Item = (String, String)>,
) -> Status {
    let mut details = info("INVALID_ARGUMENT", []);
    for (field, problem) in fields {
        details.add_bad_request_violation(field, problem);
    }
    Status::with_error_details(Code::InvalidArgument, text, details)
}

pub(crate) fn status(code: Code, text: String, reason: &str, retry: bool) -> Status {
    let mut details = info(reason, []);
    if retry {
        details.set_retry_info(Some(RETRY));
    }
    Status::with_error_details(code, text, details)
}

fn info<const N: usize>(reason: &str, metadata: [(&str, String); N]) -> ErrorDetails {
    let metadata: HashMap<String, String> = metadata
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect();
    ErrorDetails::with_error_info(reason, DOMAIN, metadata)
}
