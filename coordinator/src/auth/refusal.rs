use std::collections::HashMap;

use espalier_auth::Verb;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::api::DOMAIN;

/// Why a call is not let through.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// It has no token.
    #[error(
        "a token is needed: set ESPALIER_TOKEN or pass --token-file; `espalier token create` makes one"
    )]
    NoToken,
    /// Its token is none that is known. Whether its name is, is not told.
    #[error("the token is not known: it was revoked, or is of another deployment")]
    UnknownToken,
    /// Its token is over.
    #[error("token `{0}` has expired")]
    Expired(String),
    /// Its token does not allow this.
    #[error("token `{token}` may not do this: it lacks the scope {scope}")]
    Scope {
        /// Of the token.
        token: String,
        /// That would do.
        scope: String,
    },
    /// It can be read in more than one way, or in none.
    #[error("the message cannot be read: {0}")]
    Unreadable(&'static str),
    /// There is no such method.
    #[error("there is no method {0}")]
    NoSuchMethod(String),
}

impl Refusal {
    /// The scope that is missing, of this name or of every one.
    pub(crate) fn scope(token: &str, verb: Verb, name: Option<&str>) -> Self {
        Self::Scope {
            token: token.to_owned(),
            scope: format!("{verb}:{}", name.unwrap_or("*")),
        }
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let (code, reason) = match &refusal {
            Refusal::NoToken => (Code::Unauthenticated, "NO_TOKEN"),
            Refusal::UnknownToken => (Code::Unauthenticated, "UNKNOWN_TOKEN"),
            Refusal::Expired(_) => (Code::Unauthenticated, "EXPIRED_TOKEN"),
            Refusal::Scope { .. } => (Code::PermissionDenied, "SCOPE_MISSING"),
            Refusal::Unreadable(_) => (Code::InvalidArgument, "INVALID_ARGUMENT"),
            Refusal::NoSuchMethod(_) => (Code::Unimplemented, "NO_SUCH_METHOD"),
        };
        let mut metadata = HashMap::new();
        if let Refusal::Scope { scope, .. } = &refusal {
            metadata.insert("scope".to_owned(), scope.clone());
        }
        let details = ErrorDetails::with_error_info(reason, DOMAIN, metadata);
        Self::with_error_details(code, refusal.to_string(), details)
    }
}
