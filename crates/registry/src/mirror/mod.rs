//! A mirror of another registry: it reads through, keeps what was asked for, and takes no writes.

mod chunks;
mod flights;
mod lru;
mod names;
mod rpc;
mod upstream;

use std::sync::Arc;
use std::time::Duration;

use espalier_auth::Access;
use espalier_proto::v1::registry_service_server::RegistryServiceServer;
use espalier_store::{Leader, Range};

use self::chunks::Chunks;
use self::names::Names;
use self::upstream::Upstream;
use crate::records::MANIFESTS;
use crate::service::{Admitted, Room};
use crate::{Blobs, Clock, RegistryError, SystemClock};

/// What a mirror mirrors, and how closely.
#[derive(Clone, Debug)]
pub struct MirrorOptions {
    /// Endpoints of the registry, `http://host:port` or `https://host:port`; all of the same one, if there
    /// are several.
    pub upstream: Vec<String>,
    /// How it shows who it is there.
    pub access: Access,
    /// Time for which what upstream said of an alias or a checkpoint is given again without asking.
    pub fresh: Duration,
}

/// The gRPC service of a mirror. Clones share its state.
#[derive(Clone)]
pub struct MirrorService(Arc<Shared>);

struct Shared {
    upstream: Arc<Upstream>,
    chunks: Chunks,
    names: Names,
    room: Arc<Room>,
}

impl MirrorService {
    /// A mirror that keeps chunks in `blobs`, as many as its quota lets it, and answers in the leader's
    /// store. It does not ask upstream yet.
    ///
    /// # Errors
    /// [`RegistryError::Argument`] for an endpoint that is none, and for a store that holds checkpoints
    /// of its own; errors of the store and the blobs.
    pub async fn open(
        blobs: Blobs,
        leader: Leader,
        options: &MirrorOptions,
    ) -> Result<Self, RegistryError> {
        Self::with(blobs, leader, options, Arc::new(SystemClock::default())).await
    }

    /// As [`MirrorService::open`], by another clock.
    ///
    /// # Errors
    /// As [`MirrorService::open`].
    pub async fn with(
        blobs: Blobs,
        leader: Leader,
        options: &MirrorOptions,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, RegistryError> {
        let own = Range::prefix(MANIFESTS).limit(1);
        if !leader.store().range(own).await?.entries.is_empty() {
            let problem = "the data folder holds checkpoints that were published there, and a mirror \
                           throws away what is not asked for: give it a folder of its own";
            return Err(RegistryError::argument("--mirror-of", problem));
        }
        let upstream = Upstream::new(&options.upstream, &options.access, Arc::clone(&clock))
            .map_err(|e| RegistryError::argument("--mirror-of", e))?;
        let upstream = Arc::new(upstream);
        let chunks = Chunks::open(blobs, Arc::clone(&upstream)).await?;
        let names = Names::open(leader, Arc::clone(&upstream), clock, options.fresh).await?;
        Ok(Self(Arc::new(Shared {
            upstream,
            chunks,
            names,
            room: Arc::default(),
        })))
    }

    /// As a tonic service, with the bounds of the interface on messages and on those under way.
    pub fn into_server(self) -> Admitted<RegistryServiceServer<Self>> {
        let room = Arc::clone(&self.0.room);
        Admitted::serving(self, room)
    }

    /// Waits for the fetches under way, whose clients may have gone. Call it after the server has
    /// stopped and before the store is closed.
    pub async fn drain(&self) {
        self.0.chunks.drain().await;
    }
}
