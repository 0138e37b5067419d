use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use clap::Args;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};
use tonic::{Request, Status};

use crate::Token;

/// How a client shows who it is, and whom it trusts. Files are read again with each connection, so
/// that what is renewed in time needs no restart.
#[derive(Clone, Debug, Default)]
pub struct Access(AccessArgs);

/// The arguments of a client.
#[derive(Clone, Default, Args)]
pub struct AccessArgs {
    /// The token that `espalier token create` printed; in the environment or a file other users of the
    /// machine do not see it.
    #[arg(
        long,
        global = true,
        env = "ESPALIER_TOKEN",
        hide_env_values = true,
        value_name = "TOKEN",
        conflicts_with = "token_file"
    )]
    pub token: Option<String>,
    /// File of the token.
    #[arg(long, global = true, env = "ESPALIER_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Certificate of the authority that signed the coordinator's, a PEM file; for https:// endpoints.
    #[arg(long, global = true, env = "ESPALIER_CA", value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// This client's certificate, a PEM file, where the coordinator asks for one.
    #[arg(
        long,
        global = true,
        env = "ESPALIER_CERT",
        value_name = "FILE",
        requires = "key"
    )]
    pub cert: Option<PathBuf>,
    /// The certificate's key, a PEM file.
    #[arg(
        long,
        global = true,
        env = "ESPALIER_KEY",
        value_name = "FILE",
        requires = "cert"
    )]
    pub key: Option<PathBuf>,
    /// Send the token without encryption to another machine, where everybody between can read it.
    #[arg(long, global = true, env = "ESPALIER_PLAINTEXT_TOKEN")]
    pub plaintext_token: bool,
}

/// Why a client cannot connect as it was told to.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// No URL, or one of another scheme.
    #[error(
        "`{url}` is not an endpoint such as http://127.0.0.1:7878 or https://HOST:7878: {problem}"
    )]
    Url {
        /// As given.
        url: String,
        /// What is wrong.
        problem: String,
    },
    /// A file cannot be read.
    #[error("{argument} {}: {source}", path.display())]
    File {
        /// What names it.
        argument: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The token is none.
    #[error("{argument}: {problem}")]
    Token {
        /// Where it comes from.
        argument: &'static str,
        /// What is wrong.
        problem: crate::InvalidToken,
    },
    /// A token would be sent in the clear.
    #[error(
        "{url} is not encrypted and on another machine: the token is not sent there; use https://, or \
         --plaintext-token if everybody between may read it"
    )]
    Plaintext {
        /// Where to.
        url: String,
    },
    /// https:// needs somebody to trust.
    #[error("{url} needs --ca, the certificate of the authority that signed the coordinator's")]
    NoAuthority {
        /// Where to.
        url: String,
    },
    /// The certificates cannot be used.
    #[error("the certificates for {url} cannot be used: {problem}")]
    Tls {
        /// Where to.
        url: String,
        /// What is wrong.
        problem: String,
    },
}

/// Adds the token to calls.
#[derive(Clone, Debug, Default)]
pub struct Bearer(Option<MetadataValue<Ascii>>);

impl Access {
    /// As the arguments say.
    ///
    /// # Errors
    /// A token that is none; a file that cannot be read.
    pub fn new(args: AccessArgs) -> Result<Self, AccessError> {
        let access = Self(args);
        access.bearer()?;
        for (argument, path) in [
            ("--ca", &access.0.ca),
            ("--cert", &access.0.cert),
            ("--key", &access.0.key),
        ] {
            path.as_deref()
                .map(|path| read(argument, path))
                .transpose()?;
        }
        Ok(access)
    }

    /// The same without the token: for whoever is not to have it.
    #[must_use]
    pub fn without_token(&self) -> Self {
        Self(AccessArgs {
            token: None,
            token_file: None,
            ..self.0.clone()
        })
    }

    /// The token, for each call.
    ///
    /// # Errors
    /// [`AccessError::Token`], [`AccessError::File`].
    pub fn bearer(&self) -> Result<Bearer, AccessError> {
        let (argument, text) = match (&self.0.token, &self.0.token_file) {
            (Some(token), _) => ("--token", token.clone()),
            (None, Some(path)) => {
                let bytes = read("--token-file", path)?;
                ("--token-file", String::from_utf8_lossy(&bytes).into_owned())
            }
            (None, None) => return Ok(Bearer(None)),
        };
        let wrong = |problem| AccessError::Token { argument, problem };
        let token: Token = text.trim().parse().map_err(wrong)?;
        let value = format!("Bearer {}", token.reveal()).parse();
        let mut value: MetadataValue<Ascii> = value.map_err(|_| wrong(crate::InvalidToken))?;
        // Kept out of the tables of header compression, and of what is printed.
        value.set_sensitive(true);
        Ok(Bearer(Some(value)))
    }

    /// The endpoint of a URL: encrypted if it begins with `https://`.
    ///
    /// # Errors
    /// [`AccessError`].
    pub fn endpoint(&self, url: &str) -> Result<Endpoint, AccessError> {
        let wrong = |problem: String| AccessError::Url {
            url: url.to_owned(),
            problem,
        };
        let endpoint = Endpoint::from_shared(url.to_owned()).map_err(|e| wrong(deepest(&e)))?;
        match endpoint.uri().scheme_str() {
            Some("http") => {
                let has_token = self.0.token.is_some() || self.0.token_file.is_some();
                let host = endpoint.uri().host().unwrap_or_default();
                if has_token && !self.0.plaintext_token && !is_loopback(host) {
                    return Err(AccessError::Plaintext {
                        url: url.to_owned(),
                    });
                }
                Ok(endpoint)
            }
            Some("https") => {
                let tls = self.tls(url)?;
                endpoint.tls_config(tls).map_err(|e| AccessError::Tls {
                    url: url.to_owned(),
                    problem: deepest(&e),
                })
            }
            _ => Err(wrong(
                "it does not begin with http:// or https://".to_owned(),
            )),
        }
    }

    fn tls(&self, url: &str) -> Result<ClientTlsConfig, AccessError> {
        let Some(ca) = &self.0.ca else {
            return Err(AccessError::NoAuthority {
                url: url.to_owned(),
            });
        };
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read("--ca", ca)?));
        Ok(match (&self.0.cert, &self.0.key) {
            (Some(cert), Some(key)) => {
                let (cert, key) = (read("--cert", cert)?, read("--key", key)?);
                tls.identity(Identity::from_pem(cert, key))
            }
            _ => tls,
        })
    }
}

/// Without the token.
impl fmt::Debug for AccessArgs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessArgs")
            .field("token", &self.token.is_some())
            .field("token_file", &self.token_file)
            .field("ca", &self.ca)
            .field("cert", &self.cert)
            .finish_non_exhaustive()
    }
}

impl Bearer {
    /// The value of the header `authorization`.
    pub fn value(&self) -> Option<&MetadataValue<Ascii>> {
        self.0.as_ref()
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request
                .metadata_mut()
                .insert("authorization", value.clone());
        }
        Ok(request)
    }
}

/// Whether what is sent to a host stays on this machine.
fn is_loopback(host: &str) -> bool {
    let address: Result<IpAddr, _> = host.trim_matches(['[', ']']).parse();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

fn read(argument: &'static str, path: &Path) -> Result<Vec<u8>, AccessError> {
    std::fs::read(path).map_err(|source| AccessError::File {
        argument,
        path: path.to_owned(),
        source,
    })
}

/// What went wrong at the bottom: the layers above only say that something did.
fn deepest(error: &(dyn std::error::Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_token() -> AccessArgs {
        AccessArgs {
            token: Some(Token::generate("ci").unwrap().reveal()),
            ..AccessArgs::default()
        }
    }

    #[test]
    fn a_token_is_not_sent_in_the_clear_to_another_machine() {
        let access = Access::new(with_token()).unwrap();
        for url in [
            "http://127.0.0.1:1",
            "http://[::1]:1",
            "http://localhost:1",
            "http://127.9.9.9",
        ] {
            access.endpoint(url).unwrap();
        }
        for url in [
            "http://10.0.0.1:1",
            "http://host:1",
            "http://localhost.evil.example:1",
            "http://127.0.0.1.evil.example:1",
            "http://127.0.0.1@evil.example:1",
            "http://[::ffff:10.0.0.1]:1",
        ] {
            let error = access.endpoint(url).unwrap_err();
            assert!(
                matches!(error, AccessError::Plaintext { .. }),
                "{url}: {error}"
            );
            access.without_token().endpoint(url).unwrap();
        }
        let asked = Access::new(AccessArgs {
            plaintext_token: true,
            ..with_token()
        });
        asked.unwrap().endpoint("http://host:1").unwrap();
    }

    #[test]
    fn what_is_missing_is_named() {
        let access = Access::default();
        let error = access.endpoint("https://host:1").unwrap_err().to_string();
        assert!(error.contains("--ca"), "{error}");
        for url in ["", "host:1", "ftp://host:1", "not a url"] {
            let error = access.endpoint(url).unwrap_err();
            assert!(matches!(error, AccessError::Url { .. }), "{url}: {error}");
        }
        for args in [
            AccessArgs {
                token: Some("secret".to_owned()),
                ..AccessArgs::default()
            },
            AccessArgs {
                token_file: Some("/nowhere".into()),
                ..AccessArgs::default()
            },
            AccessArgs {
                ca: Some("/nowhere".into()),
                ..AccessArgs::default()
            },
        ] {
            let error = Access::new(args).unwrap_err().to_string();
            assert!(error.contains("--") && !error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn the_token_goes_with_each_call_and_into_no_log() {
        let args = with_token();
        let text = args.token.clone().unwrap();
        assert!(!format!("{args:?}").contains(&text));
        let mut bearer = Access::new(args).unwrap().bearer().unwrap();
        let request = bearer.call(Request::new(())).unwrap();
        let sent = request.metadata().get("authorization").unwrap();
        assert_eq!(sent.to_str().unwrap(), format!("Bearer {text}"));
        assert!(!format!("{bearer:?}").contains(&text));
        let plain = Access::default()
            .bearer()
            .unwrap()
            .call(Request::new(()))
            .unwrap();
        assert!(plain.metadata().get("authorization").is_none());
    }
}
