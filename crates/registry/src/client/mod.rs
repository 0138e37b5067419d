//! Pushes and pulls folders.

mod connection;
mod error;
mod folder;
mod fsck;
mod progress;
mod pull;
mod push;
mod request;
mod retry;

use std::path::Path;
use std::sync::Arc;

use espalier_auth::Access;
use espalier_proto::v1::{
    Checkpoint, GetCheckpointRequest, ListAliasHistoryRequest, ListAliasHistoryResponse,
    ListCheckpointsRequest, ListCheckpointsResponse, ReleaseLeaseRequest,
};
use tokio::task::JoinError;
use tonic::transport::{Channel, Endpoint};

use self::connection::unary;
pub(crate) use self::connection::{Connection, Rpc, transfer_deadline, within};
pub(crate) use self::retry::is_transient;
use crate::files::blocking;
use crate::signing::check_signed;
use crate::{Digest, Manifest, PublicKey};
pub use error::ClientError;
pub use fsck::{Fault, Mirror};
pub use progress::Moved;
pub use push::Pushed;
pub use request::{Alias, Expected, PublishRequest};

/// A client of the registry at one endpoint. Clones share the connection, which mends itself.
#[derive(Clone, Debug)]
pub struct Client {
    connection: Connection,
    /// Only checkpoints that one of these has signed are taken.
    trusted: Option<Arc<[PublicKey]>>,
}

/// A checkpoint that was asked for.
#[derive(Clone, Debug)]
pub struct Found {
    /// Its identity, `sha256:...`.
    pub digest: String,
    /// Verified against the digest.
    pub manifest: Manifest,
    /// What the registry says of it.
    pub checkpoint: Checkpoint,
    /// Seconds since a mirror last reached the registry it mirrors, when it cannot now; otherwise 0.
    pub stale_s: u64,
}

/// A checkpoint that now lies in a folder.
#[derive(Clone, Debug)]
pub struct Pulled {
    /// Its identity, `sha256:...`.
    pub digest: String,
    /// Verified against the digest.
    pub manifest: Manifest,
    /// What the registry says of it.
    pub checkpoint: Checkpoint,
    /// What it took.
    pub moved: Moved,
    /// As in [`Found`].
    pub stale_s: u64,
}

impl Client {
    /// Connects to `http://host:port`, as nobody.
    ///
    /// # Errors
    /// [`ClientError::Access`], [`ClientError::Unreachable`].
    pub async fn connect(endpoint: &str) -> Result<Self, ClientError> {
        Self::connect_as(endpoint, &Access::default()).await
    }

    /// Connects to `http://host:port` or `https://host:port`, with a token and certificates.
    ///
    /// # Errors
    /// [`ClientError::Access`], [`ClientError::Unreachable`].
    pub async fn connect_as(endpoint: &str, access: &Access) -> Result<Self, ClientError> {
        let dial = |target: Endpoint| async move { target.connect().await };
        Self::connect_by(endpoint, access, dial).await
    }

    /// As [`Client::connect_as`], in another way than by the machine's network.
    ///
    /// # Errors
    /// As [`Client::connect_as`].
    pub async fn connect_by<F>(
        endpoint: &str,
        access: &Access,
        dial: impl FnOnce(Endpoint) -> F,
    ) -> Result<Self, ClientError>
    where
        F: Future<Output = Result<Channel, tonic::transport::Error>>,
    {
        Ok(Self {
            connection: Connection::open(endpoint, access, dial).await?,
            trusted: None,
        })
    }

    /// Takes only checkpoints that one of these keys has signed from now on.
    #[must_use]
    pub fn trusting(self, keys: impl IntoIterator<Item = PublicKey>) -> Self {
        Self {
            trusted: Some(keys.into_iter().collect()),
            ..self
        }
    }

    /// Pushes the files of a folder and publishes them; returns the checkpoint's digest. `progress` is
    /// called with bytes done and bytes in all.
    ///
    /// # Errors
    /// [`ClientError`]. What was uploaded stays, and a repeated push goes on from there.
    pub async fn push(
        &self,
        dir: &Path,
        request: &PublishRequest,
        progress: impl Fn(u64, u64) + Send + Sync + 'static,
    ) -> Result<String, ClientError> {
        Ok(self.push_folder(dir, request, progress).await?.digest)
    }

    /// Pushes as [`Client::push`] does, and says what it took: only chunks that the registry lacks move.
    ///
    /// # Errors
    /// As [`Client::push`].
    pub async fn push_folder(
        &self,
        dir: &Path,
        request: &PublishRequest,
        progress: impl Fn(u64, u64) + Send + Sync + 'static,
    ) -> Result<Pushed, ClientError> {
        push::push(&self.connection, dir, request, progress).await
    }

    /// Pulls a checkpoint (`name:alias`, `name@sha256:...`, `sha256:...`, `name`) into a folder that is
    /// not there, is empty, or is already this checkpoint. `progress` is called with bytes done and
    /// bytes in all.
    ///
    /// # Errors
    /// [`ClientError`]. Nothing is in place then; a repeated pull goes on from `<dir>.partial`.
    pub async fn pull(
        &self,
        reference: &str,
        dir: &Path,
        progress: impl Fn(u64, u64) + Send + Sync + 'static,
    ) -> Result<Pulled, ClientError> {
        let lease = uuid::Uuid::new_v4().to_string();
        let found = self.look_up(reference, &lease).await?;
        let moved = pull::pull(&self.connection, &found, &lease, dir, progress).await?;
        release(&self.connection, &lease).await;
        Ok(Pulled {
            digest: found.digest,
            manifest: found.manifest,
            checkpoint: found.checkpoint,
            moved,
            stale_s: found.stale_s,
        })
    }

    /// Pulls only the files of a checkpoint that are wanted, as [`Client::pull`] does. A folder with no
    /// file at all is not made.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn pull_files(
        &self,
        reference: &str,
        dir: &Path,
        wanted: impl Fn(&str) -> bool,
        progress: impl Fn(u64, u64) + Send + Sync + 'static,
    ) -> Result<Pulled, ClientError> {
        let lease = uuid::Uuid::new_v4().to_string();
        let mut found = self.look_up(reference, &lease).await?;
        let whole = found.manifest.clone();
        found.manifest.files.retain(|file| wanted(&file.path));
        let moved = if found.manifest.files.is_empty() {
            Moved::default()
        } else {
            pull::pull(&self.connection, &found, &lease, dir, progress).await?
        };
        release(&self.connection, &lease).await;
        Ok(Pulled {
            digest: found.digest,
            manifest: whole,
            checkpoint: found.checkpoint,
            moved,
            stale_s: found.stale_s,
        })
    }

    /// What is wrong with a folder that should hold exactly this checkpoint; `None` when nothing is.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn compare(
        &self,
        reference: &str,
        dir: &Path,
    ) -> Result<(Found, Option<String>), ClientError> {
        let found = self.get(reference).await?;
        let (manifest, dir) = (found.manifest.clone(), dir.to_owned());
        let difference = blocking(move || folder::difference(&dir, &manifest)).await?;
        Ok((found, difference))
    }

    /// Looks a checkpoint up.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn get(&self, reference: &str) -> Result<Found, ClientError> {
        self.look_up(reference, "").await
    }

    async fn look_up(&self, reference: &str, lease: &str) -> Result<Found, ClientError> {
        let operation = format!("looking up `{reference}`");
        let request = GetCheckpointRequest {
            reference: reference.to_owned(),
            lease: lease.to_owned(),
        };
        let answer = self
            .connection
            .call(&operation, |mut rpc| {
                let request = unary(request.clone());
                async move { rpc.get_checkpoint(request).await }
            })
            .await?;
        let checkpoint = answer.checkpoint.unwrap_or_default();
        let digest_of_manifest = Digest::of(&answer.manifest);
        let digest = digest_of_manifest.to_string();
        let asked = reference.find("sha256:").map(|at| &reference[at..]);
        if digest != checkpoint.digest || asked.is_some_and(|asked| asked != digest) {
            return Err(ClientError::Corrupt {
                file: format!("manifest of `{reference}`"),
                problem: format!(
                    "it has digest {digest}, not {}",
                    asked.unwrap_or(&checkpoint.digest)
                ),
            });
        }
        if let Some(trusted) = &self.trusted {
            let signatures = &answer.signatures;
            check_signed(signatures, digest_of_manifest, trusted).map_err(|problem| {
                ClientError::Untrusted {
                    reference: reference.to_owned(),
                    problem,
                }
            })?;
        }
        Ok(Found {
            digest,
            manifest: Manifest::parse(&answer.manifest)?,
            checkpoint,
            stale_s: answer.stale_s,
        })
    }

    /// A page of checkpoints, newest first.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn list(
        &self,
        request: ListCheckpointsRequest,
    ) -> Result<ListCheckpointsResponse, ClientError> {
        self.connection
            .call("listing the checkpoints", |mut rpc| {
                let request = unary(request.clone());
                async move { rpc.list_checkpoints(request).await }
            })
            .await
    }

    /// A page of the moves of an alias, newest first.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn alias_history(
        &self,
        request: ListAliasHistoryRequest,
    ) -> Result<ListAliasHistoryResponse, ClientError> {
        self.connection
            .call("reading the history of the alias", |mut rpc| {
                let request = unary(request.clone());
                async move { rpc.list_alias_history(request).await }
            })
            .await
    }
}

/// Ends a lease. It would end by itself: that it could not be ended is no error.
async fn release(connection: &Connection, lease: &str) {
    let request = ReleaseLeaseRequest {
        lease: lease.to_owned(),
    };
    if let Err(status) = connection.rpc().release_lease(unary(request)).await {
        tracing::debug!(%status, lease, "lease not released");
    }
}

/// The result of a task, whose panic goes on here.
fn joined<T>(result: Result<Result<T, ClientError>, JoinError>) -> Result<T, ClientError> {
    result.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}
