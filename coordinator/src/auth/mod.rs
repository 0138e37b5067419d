//! Who may call what, and the record of who did.
//!
//! [`Guard`] stands before all services. [`rules`] says what each call needs, from its message where
//! names matter; [`names`] finds the names that a message only points to; [`tokens`] are kept in the
//! store; [`audit`] is a file.

mod audit;
mod guard;
mod names;
mod principal;
mod refusal;
mod rules;
mod service;
mod tokens;

use std::path::PathBuf;

use clap::ValueEnum;

use crate::tls::TlsFiles;

pub(crate) use audit::Audit;
pub use audit::AuditError;
pub(crate) use guard::{Admitted, Guard};
pub(crate) use refusal::Refusal;
pub(crate) use service::Tokens;
pub(crate) use tokens::AdminToken;
pub use tokens::AdminTokenError;

/// Who may call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Auth {
    /// Everybody who can connect, for everything.
    #[default]
    Off,
    /// Whoever has a token, for what it allows.
    Required,
}

/// How callers are known, and where what they do is noted.
#[derive(Clone, Debug, Default)]
pub struct AuthOptions {
    /// Who may call.
    pub auth: Auth,
    /// File of a token that may do everything; made if it is not there. `admin-token` in the data
    /// folder if not set.
    pub admin_token: Option<PathBuf>,
    /// The audit log. `audit.jsonl` in the data folder if not set, with the name under which this
    /// coordinator leads where several share the folder.
    pub audit: Option<PathBuf>,
    /// Take tokens in the clear from other machines.
    pub plaintext_tokens: bool,
    /// Encrypt connections.
    pub tls: Option<TlsFiles>,
}
