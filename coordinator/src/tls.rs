//! Connections that are encrypted. Certificates are looked at again now and then: what is renewed in
//! time needs no restart.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use espalier_registry::blocking;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig, crypto};
use tokio_rustls::server::TlsStream;

/// Longest wait for a client to shake hands.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Clients that shake hands at once; more wait to be accepted.
const HANDSHAKES: usize = 256;

/// Files of the coordinator's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, with those that lead to its authority, as PEM.
    pub cert: PathBuf,
    /// Its key, as PEM.
    pub key: PathBuf,
    /// Certificate of the authority that signed those of clients. With it, who has none is turned away.
    pub client_ca: Option<PathBuf>,
    /// Time between two looks at whether the files have changed.
    pub look_every: Duration,
}

/// Why connections cannot be encrypted.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
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
    /// A file holds something else.
    #[error("{argument} {}: {problem}", path.display())]
    Malformed {
        /// What names it.
        argument: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
}

/// What the files hold.
#[derive(PartialEq, Eq)]
struct Pem {
    cert: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

/// Accepts connections under the certificate that the files hold.
pub(crate) struct Acceptor {
    files: TlsFiles,
    pem: Pem,
    config: Arc<ServerConfig>,
}

impl Acceptor {
    /// Reads the files.
    pub(crate) fn open(files: TlsFiles) -> Result<Self, TlsError> {
        let pem = read_all(&files)?;
        let config = configure(&files, &pem)?;
        Ok(Self { files, pem, config })
    }

    /// Accepts connections for as long as it is polled, and gives those that have shaken hands.
    pub(crate) async fn accept(
        mut self,
        listener: TcpListener,
        accepted: mpsc::Sender<std::io::Result<TlsStream<TcpStream>>>,
    ) {
        let mut looks = interval(self.files.look_every);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut handshakes = JoinSet::new();
        loop {
            tokio::select! {
                connection = listener.accept(), if handshakes.len() < HANDSHAKES => match connection {
                    Ok((stream, peer)) => {
                        let acceptor = TlsAcceptor::from(Arc::clone(&self.config));
                        let accepted = accepted.clone();
                        handshakes.spawn(async move {
                            // Small messages must not wait for larger ones.
                            let _ = stream.set_nodelay(true);
                            match timeout(HANDSHAKE, acceptor.accept(stream)).await {
                                // The server may have ended meanwhile.
                                Ok(Ok(stream)) => drop(accepted.send(Ok(stream)).await),
                                Ok(Err(error)) => tracing::debug!(%peer, %error, "no handshake"),
                                Err(_) => tracing::debug!(%peer, "no handshake in time"),
                            }
                        });
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a connection");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
                Some(_) = handshakes.join_next() => {}
                _ = looks.tick() => self.look().await,
            }
        }
    }

    /// Takes what has changed for the connections to come, if it can be used.
    async fn look(&mut self) {
        let files = self.files.clone();
        let pem = match blocking(move || read_all(&files)).await {
            Ok(pem) if pem != self.pem => pem,
            Ok(_) => return,
            Err(error) => return tracing::warn!(%error, "the certificate stays as it was"),
        };
        match configure(&self.files, &pem) {
            Ok(config) => {
                tracing::info!(path = %self.files.cert.display(), "the certificate was renewed");
                (self.pem, self.config) = (pem, config);
            }
            // Half written, perhaps: the next look tells.
            Err(error) => tracing::warn!(%error, "the certificate stays as it was"),
        }
    }
}

fn read_all(files: &TlsFiles) -> Result<Pem, TlsError> {
    let client_ca = files.client_ca.as_deref();
    Ok(Pem {
        cert: read("--tls-cert", &files.cert)?,
        key: read("--tls-key", &files.key)?,
        client_ca: client_ca
            .map(|path| read("--tls-client-ca", path))
            .transpose()?,
    })
}

fn read(argument: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::File {
        argument,
        path: path.to_owned(),
        source,
    })
}

fn configure(files: &TlsFiles, pem: &Pem) -> Result<Arc<ServerConfig>, TlsError> {
    let malformed = |argument: &'static str, path: &Path, problem: String| TlsError::Malformed {
        argument,
        path: path.to_owned(),
        problem,
    };
    let cert = |problem| malformed("--tls-cert", &files.cert, problem);
    let key = PrivateKeyDer::from_pem_slice(&pem.key)
        .map_err(|e| malformed("--tls-key", &files.key, e.to_string()))?;
    let chain = certificates(&pem.cert).map_err(cert)?;
    let provider = Arc::new(crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|e| cert(e.to_string()))?;
    let builder = match (&pem.client_ca, &files.client_ca) {
        (Some(text), Some(path)) => {
            let wrong = |problem| malformed("--tls-client-ca", path, problem);
            let mut roots = RootCertStore::empty();
            for root in certificates(text).map_err(wrong)? {
                roots.add(root).map_err(|e| wrong(e.to_string()))?;
            }
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.map_err(|e| wrong(e.to_string()))?)
        }
        _ => builder.with_no_client_auth(),
    };
    let mut config = builder
        .with_single_cert(chain, key)
        .map_err(|e| cert(e.to_string()))?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match all {
        Ok(all) if !all.is_empty() => Ok(all),
        Ok(_) => Err("it holds no certificate".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}
