//! The arguments that say who may call, and how.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::auth::{Auth, AuthOptions};
use crate::tls::TlsFiles;

/// Time between two looks at the certificates.
const LOOK: Duration = Duration::from_secs(10);

/// Who may call, and how.
#[derive(Debug, Args)]
pub struct AuthArgs {
    /// Who may call: everybody who can connect, or whoever has a token, for what it allows.
    #[arg(long, env = "ESPALIER_AUTH", value_enum, default_value_t)]
    pub auth: Auth,
    /// File of the token that may do everything; made if it is not there [default: admin-token in the data
    /// folder].
    #[arg(long, env = "ESPALIER_ADMIN_TOKEN_FILE", value_name = "FILE")]
    pub admin_token_file: Option<PathBuf>,
    /// The audit log [default: audit.jsonl in the data folder].
    #[arg(long, env = "ESPALIER_AUDIT_LOG", value_name = "FILE")]
    pub audit_log: Option<PathBuf>,
    /// Take tokens without encryption from other machines, where everybody between can read them.
    #[arg(long, env = "ESPALIER_PLAINTEXT_TOKENS")]
    pub plaintext_tokens: bool,
    /// This coordinator's certificate, with those that lead to its authority, a PEM file: connections are
    /// encrypted, and clients use https://. It is read again when it changes.
    #[arg(
        long,
        env = "ESPALIER_TLS_CERT",
        value_name = "FILE",
        requires = "tls_key"
    )]
    pub tls_cert: Option<PathBuf>,
    /// The certificate's key, a PEM file.
    #[arg(
        long,
        env = "ESPALIER_TLS_KEY",
        value_name = "FILE",
        requires = "tls_cert"
    )]
    pub tls_key: Option<PathBuf>,
    /// Certificate of the authority that signed those of clients, a PEM file: whoever has none is turned
    /// away.
    #[arg(
        long,
        env = "ESPALIER_TLS_CLIENT_CA",
        value_name = "FILE",
        requires = "tls_cert"
    )]
    pub tls_client_ca: Option<PathBuf>,
}

impl AuthArgs {
    pub(crate) fn options(&self) -> AuthOptions {
        AuthOptions {
            auth: self.auth,
            admin_token: self.admin_token_file.clone(),
            audit: self.audit_log.clone(),
            plaintext_tokens: self.plaintext_tokens,
            tls: match (&self.tls_cert, &self.tls_key) {
                (Some(cert), Some(key)) => Some(TlsFiles {
                    cert: cert.clone(),
                    key: key.clone(),
                    client_ca: self.tls_client_ca.clone(),
                    look_every: LOOK,
                }),
                _ => None,
            },
        }
    }
}
