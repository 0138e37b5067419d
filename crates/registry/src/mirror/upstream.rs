//! The registry that is mirrored: asked with a deadline, and left alone for a moment when it is away.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use espalier_auth::Access;
use espalier_proto::not_leader;
use tonic::metadata::MetadataValue;
use tonic::{Request, Response, Status};

use crate::client::{ClientError, Connection, Rpc, is_transient, within};
use crate::{Clock, RegistryError};

/// Deadline of a call that moves no chunks: short, since what is known already can be answered instead.
pub(super) const ASK: Duration = Duration::from_secs(3);

/// Time for which an upstream that did not answer is taken to be away.
const AWAY: Duration = Duration::from_secs(1);

/// Name in the metadata of what a mirror asks.
const MIRROR: &str = "espalier-mirror";

/// The endpoints of one registry, of which one is asked until it fails.
pub(super) struct Upstream {
    endpoints: Vec<Connection>,
    current: AtomicUsize,
    clock: Arc<dyn Clock>,
    /// Why it is taken to be away, and until when.
    away: Mutex<Option<(Duration, String)>>,
}

impl Upstream {
    /// Connects when it is first asked: a mirror can start while its upstream is away.
    pub(super) fn new(
        endpoints: &[String],
        access: &Access,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, ClientError> {
        let endpoints = endpoints.iter();
        let endpoints = endpoints.map(|endpoint| Connection::lazy(endpoint, access));
        Ok(Self {
            endpoints: endpoints.collect::<Result<_, _>>()?,
            current: AtomicUsize::new(0),
            clock,
            away: Mutex::default(),
        })
    }

    /// Where it is.
    pub(super) fn name(&self) -> String {
        let names = self.endpoints.iter().map(|e| e.endpoint.as_str());
        names.collect::<Vec<_>>().join(",")
    }

    /// Makes a call, at each endpoint at most once.
    ///
    /// # Errors
    /// [`RegistryError::Away`], or what it answered as [`RegistryError::Upstream`].
    pub(super) async fn ask<M, T, F>(
        &self,
        deadline: Duration,
        message: M,
        call: impl Fn(Rpc, Request<M>) -> F,
    ) -> Result<T, RegistryError>
    where
        M: Clone,
        F: Future<Output = Result<Response<T>, Status>>,
    {
        if let Some((until, problem)) = &*self.away()
            && self.clock.monotonic() < *until
        {
            return Err(self.unreachable(problem.clone()));
        }
        let mut problem = String::new();
        for _ in 0..self.endpoints.len() {
            let current = self.current.load(Ordering::Relaxed);
            let endpoint = &self.endpoints[current % self.endpoints.len()];
            let mut request = within(deadline, message.clone());
            let mark = MetadataValue::from_static("1");
            request.metadata_mut().insert(MIRROR, mark);
            let asked = tokio::time::timeout(deadline, call(endpoint.rpc(), request));
            let status = match asked.await {
                Ok(Ok(answer)) => {
                    *self.away() = None;
                    return Ok(answer.into_inner());
                }
                Ok(Err(status)) => status,
                Err(_) => Status::deadline_exceeded(format!("no answer for {deadline:?}")),
            };
            if !is_transient(&status) && not_leader(&status).is_none() {
                return Err(RegistryError::Upstream(Box::new(status)));
            }
            problem = format!("{}: {}", endpoint.endpoint, status.message());
            // Unless another call was faster to go on to the next.
            let _ = self.current.compare_exchange(
                current,
                current.wrapping_add(1),
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
        }
        *self.away() = Some((self.clock.monotonic() + AWAY, problem.clone()));
        Err(self.unreachable(problem))
    }

    fn unreachable(&self, problem: String) -> RegistryError {
        RegistryError::Away { problem }
    }

    fn away(&self) -> MutexGuard<'_, Option<(Duration, String)>> {
        // Setting it is one step, whole whatever panicked elsewhere.
        self.away.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Refuses what another mirror asks: mirrors are one hop, and none is its own upstream.
pub(super) fn refuse_mirrors<T>(request: &Request<T>) -> Result<(), RegistryError> {
    match request.metadata().get(MIRROR) {
        Some(_) => Err(RegistryError::MirrorOfMirror),
        None => Ok(()),
    }
}
