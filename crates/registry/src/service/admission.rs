//! How many batches of chunks are in memory at once, in each direction, whoever they are for.
//!
//! A batch has a place from before its first byte is read until its last has left: of a request, before the
//! transport takes more of it than a window; of an answer, until the transport has given it to the network. A
//! batch whose link is slow moves aside, so that a few of those do not hold up all others.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use espalier_proto::MAX_REGISTRY_MESSAGE;
use espalier_proto::v1::registry_service_server::{RegistryService, RegistryServiceServer};
use http_body_util::BodyExt as _;
use prost::bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::NamedService;

use crate::RegistryError;

/// Most batches under way in a direction, of 4 MiB each and twice that while they are packed.
const PLACES: usize = 6;

/// Most besides that have moved aside.
const ASIDE: usize = 32;

/// Most checks at once: each reads several chunks at a time.
const CHECKS: usize = 1;

/// Time after which a batch moves aside.
const SLOW: Duration = Duration::from_secs(5);

/// Longest wait for a place: less than clients allow a batch.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Time between two looks for room aside, while there is none.
const LOOK: Duration = Duration::from_secs(1);

/// The places that all calls of a registry share.
#[derive(Debug)]
pub(crate) struct Room {
    taken: Lane,
    given: Lane,
    checked: Lane,
}

impl Default for Room {
    fn default() -> Self {
        Self {
            taken: Lane::new("batches of chunks that are sent", PLACES, ASIDE),
            given: Lane::new("batches of chunks that are read", PLACES, ASIDE),
            checked: Lane::new("checks of chunks", CHECKS, 0),
        }
    }
}

impl Room {
    /// Where calls of this path have their places; None if they carry no chunks.
    fn lane(&self, path: &str) -> Option<&Lane> {
        match path.rsplit('/').next().unwrap_or_default() {
            "WriteChunks" => Some(&self.taken),
            "ReadChunks" => Some(&self.given),
            "CheckChunks" => Some(&self.checked),
            _ => None,
        }
    }
}

/// The places of one direction.
#[derive(Debug)]
struct Lane {
    /// What has them, in words.
    what: &'static str,
    places: Arc<Semaphore>,
    count: usize,
    aside: Arc<Semaphore>,
    /// Since when each of [`Lane::places`] is taken; the oldest first.
    inside: Mutex<VecDeque<(Instant, Weak<Place>)>>,
    slow: Duration,
    wait: Duration,
}

/// The place of a call.
#[derive(Debug)]
struct Place(Mutex<OwnedSemaphorePermit>);

impl Lane {
    fn new(what: &'static str, count: usize, aside: usize) -> Self {
        Self {
            what,
            places: Arc::new(Semaphore::new(count)),
            count,
            aside: Arc::new(Semaphore::new(aside)),
            inside: Mutex::default(),
            slow: SLOW,
            wait: LONGEST_WAIT,
        }
    }

    /// Waits for a place, in the order of arrival.
    ///
    /// # Errors
    /// [`RegistryError::Busy`].
    async fn enter(&self) -> Result<Arc<Place>, RegistryError> {
        let mut permit = pin!(Arc::clone(&self.places).acquire_owned());
        let give_up = Instant::now() + self.wait;
        loop {
            let look = self.make_way(Instant::now());
            let until = look.map_or(give_up, |look| look.min(give_up));
            match timeout_at(until, &mut permit).await {
                Ok(Ok(permit)) => {
                    let place = Arc::new(Place(Mutex::new(permit)));
                    let entered = (Instant::now(), Arc::downgrade(&place));
                    self.inside().push_back(entered);
                    return Ok(place);
                }
                Err(_) if Instant::now() < give_up => {}
                // The semaphore is never closed.
                Err(_) | Ok(Err(_)) => {
                    return Err(RegistryError::Busy {
                        what: self.what,
                        limit: self.count,
                    });
                }
            }
        }
    }

    /// Moves aside what has been inside for too long. When to look again; None while nothing is inside.
    fn make_way(&self, now: Instant) -> Option<Instant> {
        let mut inside = self.inside();
        inside.retain(|(_, place)| place.strong_count() > 0);
        while let Some((since, place)) = inside.front() {
            let due = *since + self.slow;
            if due > now {
                return Some(due);
            }
            if let Some(place) = place.upgrade() {
                let Ok(permit) = Arc::clone(&self.aside).try_acquire_owned() else {
                    return Some(now + LOOK);
                };
                *place.0.lock().unwrap_or_else(PoisonError::into_inner) = permit;
            }
            inside.pop_front();
        }
        None
    }

    fn inside(&self) -> std::sync::MutexGuard<'_, VecDeque<(Instant, Weak<Place>)>> {
        // Each of its changes is one step, whole whatever panicked elsewhere.
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A registry's service that lets calls in as there are places for their chunks.
#[derive(Clone, Debug)]
pub struct Admitted<S> {
    inner: S,
    room: Arc<Room>,
}

impl<T: RegistryService> Admitted<RegistryServiceServer<T>> {
    /// A registry or a mirror, with the interface's bound on messages.
    pub(crate) fn serving(service: T, room: Arc<Room>) -> Self {
        let inner = RegistryServiceServer::new(service)
            .max_decoding_message_size(MAX_REGISTRY_MESSAGE)
            .max_encoding_message_size(MAX_REGISTRY_MESSAGE);
        Self { inner, room }
    }
}

impl<S: NamedService> NamedService for Admitted<S> {
    const NAME: &'static str = S::NAME;
}

impl<S, B> Service<http::Request<B>> for Admitted<S>
where
    S: Service<http::Request<B>, Response = http::Response<Body>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send,
    B: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // Services made by tonic are always ready.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let (mut inner, room) = (self.inner.clone(), Arc::clone(&self.room));
        Box::pin(async move {
            let Some(lane) = room.lane(request.uri().path()) else {
                return inner.call(request).await;
            };
            let place = match lane.enter().await {
                Ok(place) => place,
                Err(error) => return Ok(Status::from(error).into_http()),
            };
            let answer = inner.call(request).await?;
            Ok(answer.map(|body| held(body, place)))
        })
    }
}

/// The body, whose place is free with the last of its bytes: the transport's buffers share them.
fn held(body: Body, place: Arc<Place>) -> Body {
    Body::new(body.map_frame(move |frame| {
        frame.map_data(|bytes| {
            let _place = Arc::clone(&place);
            Bytes::from_owner(Held { bytes, _place })
        })
    }))
}

struct Held {
    bytes: Bytes,
    _place: Arc<Place>,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    /// Answers each call with a byte.
    #[derive(Clone)]
    struct Answers;

    impl Service<http::Request<()>> for Answers {
        type Response = http::Response<Body>;
        type Error = Infallible;
        type Future = std::future::Ready<Result<Self::Response, Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: http::Request<()>) -> Self::Future {
            let body = http_body_util::Full::new(Bytes::from_static(b"a"));
            std::future::ready(Ok(http::Response::new(Body::new(body))))
        }
    }

    type Answer = http::Response<Body>;

    async fn call(service: &mut Admitted<Answers>, method: &str) -> Answer {
        let uri = format!("/espalier.v1.RegistryService/{method}");
        let request = http::Request::builder().uri(uri).body(()).unwrap();
        service.call(request).await.unwrap()
    }

    fn refused(answer: &Answer) -> Option<Status> {
        Status::from_header_map(answer.headers())
    }

    fn admitted(slow: Duration, wait: Duration) -> Admitted<Answers> {
        let lane = |count, aside| Lane {
            slow,
            wait,
            ..Lane::new("batches", count, aside)
        };
        let room = Room {
            taken: lane(2, 1),
            given: lane(2, 1),
            checked: lane(1, 0),
        };
        Admitted {
            inner: Answers,
            room: Arc::new(room),
        }
    }

    const SOON: Duration = Duration::from_millis(20);
    const LATER: Duration = Duration::from_secs(600);

    #[tokio::test]
    async fn an_answer_has_its_place_until_the_last_of_its_bytes_is_gone() {
        let mut service = admitted(LATER, LATER);
        let free = |service: &Admitted<Answers>| service.room.given.places.available_permits();
        let answer = call(&mut service, "ReadChunks").await;
        let mut body = answer.into_body();
        let frame = body.frame().await.expect("a frame").expect("no error");
        let bytes = frame.into_data().expect("data");
        drop(body);
        let rest = bytes.slice(..1);
        drop(bytes);
        assert_eq!(free(&service), 1);
        drop(rest);
        assert_eq!(free(&service), 2);
    }

    #[tokio::test]
    async fn who_finds_no_place_waits_for_one_and_the_other_calls_do_not() {
        let mut service = admitted(LATER, LATER);
        let first = call(&mut service, "WriteChunks").await;
        let _second = call(&mut service, "WriteChunks").await;
        let mut other = service.clone();
        let mut waiting = pin!(call(&mut other, "WriteChunks"));
        let waits = poll_fn(|cx| Poll::Ready(waiting.as_mut().poll(cx).is_pending())).await;
        assert!(waits);
        for method in ["ReadChunks", "CheckChunks", "GetCheckpoint"] {
            assert!(refused(&call(&mut service, method).await).is_none());
        }
        drop(first);
        assert!(refused(&waiting.await).is_none());
    }

    #[tokio::test]
    async fn slow_batches_move_aside_until_there_is_no_room_there() {
        let mut service = admitted(SOON, SOON * 10);
        let mut answers = Vec::new();
        for _ in 0..3 {
            answers.push(call(&mut service, "ReadChunks").await);
        }
        assert!(answers.iter().all(|answer| refused(answer).is_none()));
        let status = refused(&call(&mut service, "ReadChunks").await).expect("is refused");
        assert_eq!(status.code(), tonic::Code::ResourceExhausted);
        assert_eq!(status.message(), "too many batches at once: at most 2");
        // What moved aside gives that place back, and another moves.
        answers.remove(0);
        assert!(refused(&call(&mut service, "ReadChunks").await).is_none());
    }

    #[tokio::test]
    async fn what_is_over_is_forgotten() {
        let lane = Lane::new("batches", 2, 1);
        for _ in 0..100 {
            lane.enter().await.expect("has a place");
        }
        assert_eq!(lane.inside().len(), 1);
    }
}
