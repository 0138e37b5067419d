//! Pushes and pulls folders.

mod connection;
mod error;
mod folder;
mod progress;
mod pull;
mod push;
mod request;
mod retry;

use std::path::Path;
use std::time::Duration;

use espalier_proto::v1::{
    Checkpoint, GetCheckpointRequest, ListAliasHistoryRequest, ListAliasHistoryResponse,
    ListCheckpointsRequest, ListCheckpointsResponse,
};

use self::connection::{Connection, unary};
use crate::{Digest, Manifest};
pub use error::ClientError;
pub use request::{Alias, Expected, PublishRequest};

/// Bytes a second of the slowest link that is waited for.
const SLOWEST: u64 = 256 << 10;

/// A client of the registry at one endpoint. Clones share the connection, which mends itself.
#[derive(Clone, Debug)]
pub struct Client(Connection);

/// A checkpoint that was asked for.
#[derive(Clone, Debug)]
pub struct Found {
    /// Its identity, `sha256:...`.
    pub digest: String,
    /// Verified against the digest.
    pub manifest: Manifest,
    /// What the registry says of it.
    pub checkpoint: Checkpoint,
}

/// A checkpoint that now lies in a folder.
pub type Pulled = Found;

impl Client {
    /// Connects to `http://host:port`.
    ///
    /// # Errors
    /// [`ClientError::Endpoint`], [`ClientError::Unreachable`].
    pub async fn connect(endpoint: &str) -> Result<Self, ClientError> {
        Ok(Self(Connection::open(endpoint).await?))
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
        push::push(&self.0, dir, request, progress).await
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
        let found = self.get(reference).await?;
        pull::pull(&self.0, &found, dir, progress).await?;
        Ok(found)
    }

    /// Looks a checkpoint up.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn get(&self, reference: &str) -> Result<Found, ClientError> {
        let operation = format!("looking up `{reference}`");
        let request = GetCheckpointRequest {
            reference: reference.to_owned(),
        };
        let answer = self
            .0
            .call(&operation, |mut rpc| {
                let request = unary(request.clone());
                async move { rpc.get_checkpoint(request).await }
            })
            .await?;
        let checkpoint = answer.checkpoint.unwrap_or_default();
        let digest = Digest::of(&answer.manifest).to_string();
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
        Ok(Found {
            digest,
            manifest: Manifest::parse(&answer.manifest)?,
            checkpoint,
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
        self.0
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
        self.0
            .call("reading the history of the alias", |mut rpc| {
                let request = unary(request.clone());
                async move { rpc.list_alias_history(request).await }
            })
            .await
    }
}

/// Time that a transfer of this many bytes may take: a slow link's, so that only a dead one misses it.
fn transfer_deadline(bytes: u64) -> Duration {
    Duration::from_secs(60 + bytes / SLOWEST)
}
