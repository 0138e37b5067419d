//! Pushes and pulls folders.

mod error;
mod request;
mod retry;

use std::path::Path;

use espalier_proto::v1::{AliasMove, Checkpoint};

use crate::Manifest;
pub use error::ClientError;
pub use request::{Alias, Expected, PublishRequest};

/// A client of the registry at one endpoint. Clones share the connection, which mends itself.
#[derive(Clone, Debug)]
pub struct Client {
    endpoint: String,
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
}

/// A checkpoint that now lies in a folder.
pub type Pulled = Found;

/// A page of checkpoints, newest first.
#[derive(Clone, Debug)]
pub struct Checkpoints {
    /// The page.
    pub checkpoints: Vec<Checkpoint>,
    /// For the next page; empty on the last.
    pub next_page_token: String,
}

/// A page of an alias's history, newest first.
#[derive(Clone, Debug)]
pub struct AliasMoves {
    /// The page.
    pub moves: Vec<AliasMove>,
    /// For the next page; empty on the last.
    pub next_page_token: String,
}

impl Client {
    /// Connects to `http://host:port`.
    ///
    /// # Errors
    /// [`ClientError`] when the endpoint is malformed or nobody answers there.
    pub async fn connect(endpoint: &str) -> Result<Self, ClientError> {
        Ok(Self {
            endpoint: endpoint.to_owned(),
        })
    }

    /// Pushes the files of a folder and publishes them; returns the checkpoint's digest. `progress` is
    /// called with bytes done and bytes in all.
    ///
    /// # Errors
    /// [`ClientError`]. What was uploaded stays, and a repeated push goes on from there.
    pub async fn push(
        &self,
        _dir: &Path,
        _request: &PublishRequest,
        _progress: impl Fn(u64, u64) + Send + Sync + 'static,
    ) -> Result<String, ClientError> {
        unimplemented!("{}", self.endpoint)
    }

    /// Pulls a checkpoint (`name:alias`, `name@sha256:...`, `sha256:...`, `name`) into a folder that is
    /// not there, is empty, or is already this checkpoint.
    ///
    /// # Errors
    /// [`ClientError`]. Nothing is in place then; a repeated pull goes on from `<dir>.partial`.
    pub async fn pull(
        &self,
        _reference: &str,
        _dir: &Path,
        _progress: impl Fn(u64, u64) + Send + Sync + 'static,
    ) -> Result<Pulled, ClientError> {
        unimplemented!("{}", self.endpoint)
    }

    /// Looks a checkpoint up.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn get(&self, _reference: &str) -> Result<Found, ClientError> {
        unimplemented!("{}", self.endpoint)
    }
}
