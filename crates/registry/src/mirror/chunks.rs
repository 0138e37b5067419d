//! Chunks that were asked for: kept here as long as there is room, fetched once when they are not.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use espalier_proto::v1::{Chunk, Encoding as Wire, ReadChunksRequest};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;
use tonic::{Code, Status};

use super::flights::{Flight, Flights, Outcome, arrived};
use super::lru::Lru;
use super::upstream::Upstream;
use crate::chunks::{Encoding, Stored, decode};
use crate::client::transfer_deadline;
use crate::files::blocking;
use crate::objects::STORED_HEADER;
use crate::{Blobs, ChunkId, Digest, RegistryError};

/// Most batches that are fetched at once; more wait.
const FETCHES: usize = 8;

/// Most batches that are fetched or wait for it.
const MAX_FETCHES: usize = 64;

/// Chunks of a call that are read here at once.
const AT_ONCE: usize = 8;

/// The chunks of a mirror. Clones share them.
#[derive(Clone)]
pub(super) struct Chunks(Arc<Inner>);

struct Inner {
    blobs: Blobs,
    upstream: Arc<Upstream>,
    /// Most bytes that are kept.
    limit: Option<u64>,
    used: Mutex<Lru<Digest>>,
    /// One batch is stored at a time: each makes room for itself first.
    storing: tokio::sync::Mutex<()>,
    flights: Flights,
    fetches: Semaphore,
    tasks: TaskTracker,
}

impl Chunks {
    /// Those that are there are taken to be unused, in the order of their digests.
    pub(super) async fn open(blobs: Blobs, upstream: Arc<Upstream>) -> Result<Self, RegistryError> {
        let mut used = Lru::default();
        let mut next = None;
        loop {
            let page = blobs.list(next).await?;
            for (digest, bytes) in page.objects {
                used.insert(digest, bytes);
            }
            next = page.next;
            if next.is_none() {
                break;
            }
        }
        let (_, _, limit) = blobs.usage();
        Ok(Self(Arc::new(Inner {
            blobs,
            upstream,
            limit,
            used: Mutex::new(used),
            storing: tokio::sync::Mutex::default(),
            flights: Flights::default(),
            fetches: Semaphore::new(FETCHES),
            tasks: TaskTracker::new(),
        })))
    }

    pub(super) fn blobs(&self) -> &Blobs {
        &self.0.blobs
    }

    /// Waits for the fetches under way.
    pub(super) async fn drain(&self) {
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    /// Counts chunks as used, so that they are not the next to go.
    pub(super) fn touch(&self, ids: &[ChunkId]) {
        let mut used = self.used();
        for id in ids {
            used.touch(&id.digest);
        }
    }

    /// Chunks, in order: from here, or from upstream under the client's lease there.
    pub(super) async fn read(
        &self,
        ids: &[ChunkId],
        lease: &str,
    ) -> Result<Vec<Stored>, RegistryError> {
        let kept = stream::iter(ids.to_vec()).map(|id| self.kept(id));
        let kept: Vec<Option<Stored>> = kept.buffered(AT_ONCE).try_collect().await?;
        let absent = ids.iter().zip(&kept).filter(|(_, kept)| kept.is_none());
        let absent: Vec<ChunkId> = absent.map(|(id, _)| *id).collect();
        // Those of clients that have gone are among them.
        if self.0.tasks.len() >= MAX_FETCHES {
            return Err(RegistryError::Busy {
                what: "fetches",
                limit: MAX_FETCHES,
            });
        }
        let (mine, arrivals) = self.0.flights.join(&absent);
        if !mine.is_empty() {
            // A task of its own: others may wait for it when this client has gone.
            let (chunks, lease) = (self.clone(), lease.to_owned());
            let fetch = async move { chunks.fetch(mine, lease).await };
            self.0.tasks.spawn(fetch);
        }
        let mut fetched = Vec::with_capacity(arrivals.len());
        for arrival in arrivals {
            fetched.push(arrived(arrival).await?);
        }
        // One for each that is absent, in their order.
        let mut fetched = fetched.into_iter();
        let all = kept.into_iter();
        Ok(all
            .filter_map(|kept| kept.or_else(|| fetched.next()))
            .collect())
    }

    /// A chunk that is here and whole.
    async fn kept(&self, id: ChunkId) -> Result<Option<Stored>, RegistryError> {
        match self.0.blobs.get_verified(id).await {
            Ok(stored) => {
                self.used().touch(&id.digest);
                Ok(Some(stored))
            }
            // What is damaged was put aside, and is fetched again.
            Err(RegistryError::NotFound { .. } | RegistryError::Damaged { .. }) => {
                self.used().remove(&id.digest);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// What is wrong with a chunk that is here; `None` for one that is whole or not here.
    pub(super) async fn check(&self, id: ChunkId) -> Result<Option<String>, RegistryError> {
        match self.0.blobs.get_verified(id).await {
            Ok(_) | Err(RegistryError::NotFound { .. }) => Ok(None),
            Err(RegistryError::Damaged { problem, .. }) => {
                self.used().remove(&id.digest);
                Ok(Some(problem))
            }
            Err(error) => Err(error),
        }
    }

    async fn fetch(&self, mine: Vec<Flight>, lease: String) {
        // The semaphore is never closed.
        let _permit = self.0.fetches.acquire().await;
        let mut absent = Vec::with_capacity(mine.len());
        for flight in mine {
            // An earlier flight may have landed since it was looked for.
            match self.kept(flight.id).await {
                Ok(Some(stored)) => flight.land(Ok(stored)),
                _ => absent.push(flight),
            }
        }
        let ids: Vec<ChunkId> = absent.iter().map(|flight| flight.id).collect();
        if ids.is_empty() {
            return;
        }
        let outcomes = self.ask(&ids, &lease).await;
        let whole = ids.iter().zip(&outcomes);
        let whole = whole.filter_map(|(id, outcome)| Some((*id, outcome.clone().ok()?)));
        self.keep(whole.collect()).await;
        for (flight, outcome) in absent.into_iter().zip(outcomes) {
            flight.land(outcome);
        }
    }

    /// Verified chunks from upstream, in order.
    async fn ask(&self, ids: &[ChunkId], lease: &str) -> Vec<Outcome> {
        let mut outcomes = match self.ask_once(ids, lease, false).await {
            Ok(outcomes) => outcomes,
            // Of several, it is not said which.
            Err(status) if ids.len() > 1 && is_of_a_chunk(&status) => vec![Err(status); ids.len()],
            Err(status) => return vec![Err(status); ids.len()],
        };
        for (id, outcome) in ids.iter().zip(&mut outcomes) {
            // Upstream looks at what it has: if that is damaged it says so and puts it aside.
            if outcome.as_ref().is_err_and(is_of_a_chunk) {
                let alone = self.ask_once(&[*id], lease, true).await;
                *outcome = match alone {
                    Ok(mut one) => one.pop().unwrap_or_else(|| Err(left_out(*id))),
                    Err(status) => Err(status),
                };
            }
        }
        outcomes
    }

    async fn ask_once(
        &self,
        ids: &[ChunkId],
        lease: &str,
        verify: bool,
    ) -> Result<Vec<Outcome>, Status> {
        let request = ReadChunksRequest {
            chunks: ids.iter().map(|id| id.to_proto()).collect(),
            lease: lease.to_owned(),
            verify,
        };
        let deadline = transfer_deadline(ids.iter().map(|id| id.size).sum());
        let answer = self
            .0
            .upstream
            .ask(deadline, request, |mut rpc, request| async move {
                rpc.read_chunks(request).await
            })
            .await?;
        let ids = ids.to_vec();
        blocking(move || {
            let mut chunks = answer.chunks.into_iter();
            let verified = ids.into_iter().map(|id| match chunks.next() {
                Some(chunk) => unpack(id, chunk).map_err(|problem| {
                    Status::data_loss(format!("chunk {} from upstream: {problem}", id.digest))
                }),
                None => Err(left_out(id)),
            });
            Ok(verified.collect())
        })
        .await
    }

    /// Stores what was fetched, if it can be made room for: a mirror without room still answers.
    async fn keep(&self, chunks: Vec<(ChunkId, Stored)>) {
        let _one_by_one = self.0.storing.lock().await;
        let sizes = chunks.iter().map(|(id, s)| (id.digest, taken(s)));
        let sizes: Vec<(Digest, u64)> = sizes.collect();
        let needed = sizes.iter().map(|(_, bytes)| bytes).sum();
        if self.0.limit.is_some_and(|limit| needed > limit) {
            return;
        }
        let stored = async {
            if let Some(limit) = self.0.limit {
                self.evict(limit.saturating_sub(needed)).await?;
            }
            match self.0.blobs.store(chunks.clone()).await {
                // Others fill the disk: what is kept gives way.
                Err(RegistryError::NoSpace { .. }) => {
                    let bytes = self.used().bytes();
                    self.evict(bytes.saturating_sub(needed)).await?;
                    self.0.blobs.store(chunks).await
                }
                other => other,
            }
        };
        match stored.await {
            Ok(()) => {
                let mut used = self.used();
                for (digest, bytes) in sizes {
                    used.insert(digest, bytes);
                }
            }
            Err(error) => tracing::warn!(%error, "chunks are passed on and not kept"),
        }
    }

    /// Removes what was used least recently until at most `most` bytes are left.
    async fn evict(&self, most: u64) -> Result<(), RegistryError> {
        let gone = self.used().shrink(most);
        if gone.is_empty() {
            return Ok(());
        }
        tracing::debug!(chunks = gone.len(), "evicted");
        self.0.blobs.delete(gone).await.map(drop)
    }

    fn used(&self) -> MutexGuard<'_, Lru<Digest>> {
        // A panic between two of its changes could at worst miscount what is kept.
        self.0.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes that a stored chunk takes.
fn taken(stored: &Stored) -> u64 {
    (STORED_HEADER + stored.data.len()) as u64
}

/// The trouble is with one chunk rather than with upstream.
fn is_of_a_chunk(status: &Status) -> bool {
    matches!(status.code(), Code::NotFound | Code::DataLoss)
}

fn left_out(id: ChunkId) -> Status {
    Status::data_loss(format!(
        "upstream left chunk {} out of its answer",
        id.digest
    ))
}

/// A chunk that was received, verified against what was asked for; as it was sent.
fn unpack(id: ChunkId, chunk: Chunk) -> Result<Stored, String> {
    let encoding = match Wire::try_from(chunk.encoding) {
        Ok(Wire::Unspecified) => Encoding::Raw,
        Ok(Wire::Zstd) => Encoding::Zstd,
        Err(e) => return Err(e.to_string()),
    };
    let stored = Stored {
        encoding,
        size: id.size,
        data: chunk.data,
    };
    decode(id, &stored)?;
    Ok(stored)
}
