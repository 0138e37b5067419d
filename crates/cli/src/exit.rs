//! How the command ends: exit codes and errors for people.

use std::process::ExitCode;

use espalier_auth::AccessError;
use espalier_registry::ClientError;
use tonic::Code;
use tonic_types::StatusExt as _;

/// A failure with its exit code.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The command line or a file it names is wrong. Exit code 2.
    #[error("{0}")]
    Usage(String),
    /// A wait was given up. Exit code 3.
    #[error("{0}")]
    TimedOut(String),
    /// The job ended in another state than SUCCEEDED. Exit code 5.
    #[error("{0}")]
    JobNotSuccessful(String),
    /// Interrupted by the user. Exit code 130.
    #[error("interrupted")]
    Interrupted,
    /// The coordinator refused. Exit code by its status.
    #[error("{}", describe(.operation, .status))]
    Rpc {
        /// What was asked for.
        operation: String,
        /// The answer.
        status: Box<tonic::Status>,
    },
    /// Anything else. Exit code 1.
    #[error("{0:#}")]
    Other(#[from] anyhow::Error),
}

impl Failure {
    /// Wraps a status with what was asked for.
    pub fn rpc(operation: impl Into<String>) -> impl FnOnce(tonic::Status) -> Self {
        let operation = operation.into();
        move |status| Self::Rpc {
            operation,
            status: Box::new(status),
        }
    }

    /// The exit code.
    pub fn code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Usage(_) => 2,
            Self::TimedOut(_) => 3,
            Self::JobNotSuccessful(_) => 5,
            Self::Interrupted => 130,
            Self::Rpc { status, .. } => match status.code() {
                Code::InvalidArgument => 2,
                Code::Cancelled | Code::DeadlineExceeded => 3,
                Code::Unauthenticated | Code::PermissionDenied => 4,
                _ => 1,
            },
            Self::Other(_) => 1,
        })
    }
}

impl From<AccessError> for Failure {
    fn from(error: AccessError) -> Self {
        Self::Usage(error.to_string())
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Access(error) => error.into(),
            ClientError::Rpc {
                operation, status, ..
            } => Self::Rpc { operation, status },
            other => Self::Other(other.into()),
        }
    }
}

/// The status in words, a line for each field it complains about.
fn describe(operation: &str, status: &tonic::Status) -> String {
    let mut text = format!("{operation}: {}", status.message());
    let details = status.get_error_details();
    for violation in details
        .bad_request()
        .iter()
        .flat_map(|b| &b.field_violations)
    {
        text.push_str(&format!(
            "\n  {}: {}",
            violation.field, violation.description
        ));
    }
    for violation in details
        .precondition_failure()
        .iter()
        .flat_map(|p| &p.violations)
    {
        text.push_str(&format!(
            "\n  {}: {}",
            violation.subject, violation.description
        ));
    }
    text
}
