//! The gRPC service: requests checked, limits kept, errors in their gRPC shape.

mod admission;
mod alias;
mod change;
mod lookup;
mod publish;
mod requests;
mod rpc;
mod transfer;

use std::collections::HashSet;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use espalier_proto::v1::registry_service_server::RegistryServiceServer;
use espalier_store::{Leader, Store};
use tokio::sync::{Mutex, RwLock};
use tokio_util::task::TaskTracker;

pub use self::admission::Admitted;
pub(crate) use self::admission::Room;
pub(crate) use self::lookup::Reference;
pub(crate) use self::requests::{chunk_ids, lease};
pub(crate) use self::transfer::check_batch;
use crate::pins::Pins;
use crate::{Blobs, Clock, Digest, PublishHook, SystemClock};
pub use lookup::{Visible, checkpoint_name};

/// The registry's periods.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Time for which a lease pins chunks after the last call that names it.
    pub lease_ttl: Duration,
    /// Time between two collections of garbage.
    pub collect_every: Duration,
    /// Time that a chunk stays after nothing was found to refer to it.
    pub grace: Duration,
    /// Most chunks that are removed in a second.
    pub sweep_rate: u32,
    /// Longest collection; the next one goes on.
    pub collect_limit: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            lease_ttl: Duration::from_secs(15 * 60),
            collect_every: Duration::from_secs(10 * 60),
            grace: Duration::from_secs(60 * 60),
            sweep_rate: 1000,
            collect_limit: Duration::from_secs(10 * 60),
        }
    }
}

/// The registry's gRPC service. Clones share its state.
#[derive(Clone)]
pub struct RegistryService(pub(crate) Arc<Shared>);

/// What the calls of a registry share.
pub(crate) struct Shared {
    pub(crate) blobs: Blobs,
    pub(crate) leader: Leader,
    pub(crate) hook: Arc<dyn PublishHook>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) options: Options,
    room: Arc<Room>,
    /// Changes of checkpoints and aliases go one by one: they would only conflict.
    pub(crate) publishing: Mutex<()>,
    publishes: TaskTracker,
    pins: std::sync::Mutex<Pins>,
    /// Held for reading from when chunks are pinned until they were looked for or stored, and from when
    /// a publish looks for its chunks until it has committed; for writing while unpinned chunks are
    /// removed. So a chunk that was seen by a client does not go while its pin lasts.
    pub(crate) gate: RwLock<()>,
    /// Chunks that were published since the collection under way began.
    fresh: std::sync::Mutex<HashSet<Digest>>,
    /// One collection at a time.
    pub(crate) collecting: Mutex<()>,
}

impl RegistryService {
    /// A registry with its chunks in a folder and its records in the leader's store.
    pub fn new(blobs: Blobs, leader: Leader, hook: Arc<dyn PublishHook>) -> Self {
        Self::with(
            blobs,
            leader,
            hook,
            Options::default(),
            Arc::new(SystemClock::default()),
        )
    }

    /// A registry with its own periods and clock.
    pub fn with(
        blobs: Blobs,
        leader: Leader,
        hook: Arc<dyn PublishHook>,
        options: Options,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let pins = Pins::new(clock.monotonic(), options.lease_ttl);
        Self(Arc::new(Shared {
            blobs,
            leader,
            hook,
            clock,
            options,
            room: Arc::default(),
            publishing: Mutex::default(),
            publishes: TaskTracker::new(),
            pins: std::sync::Mutex::new(pins),
            gate: RwLock::default(),
            fresh: std::sync::Mutex::default(),
            collecting: Mutex::default(),
        }))
    }

    /// As a tonic service, with the bounds of the interface on messages and on those under way.
    pub fn into_server(self) -> Admitted<RegistryServiceServer<Self>> {
        let room = Arc::clone(&self.0.room);
        Admitted::serving(self, room)
    }

    /// Waits for the publishes under way, whose clients may have gone. Call it after the server has
    /// stopped and before the store is closed.
    pub async fn drain(&self) {
        self.0.publishes.close();
        self.0.publishes.wait().await;
    }

    pub(crate) fn store(&self) -> &Store {
        self.0.leader.store()
    }

    pub(crate) fn pins(&self) -> MutexGuard<'_, Pins> {
        // A panic between two of its changes could at worst leave a chunk pinned too long.
        self.0.pins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn fresh(&self) -> MutexGuard<'_, HashSet<Digest>> {
        // Inserting is one step, whole whatever panicked elsewhere.
        self.0.fresh.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
