//! How many batches of chunks are in memory at once, in each direction, whoever they are for.
//!
//! A batch counts from before its first byte is read until its last has left: of a request, before the
//! transport takes more of it than a window; of an answer, until the transport has given it to the network.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::BodyExt as _;
use prost::bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::NamedService;

use crate::RegistryError;

/// Most batches that are taken at once; more wait.
const TAKEN: usize = 8;

/// Most batches that are given or looked at at once; more wait.
const GIVEN: usize = 16;

/// Longest wait for one of these, less than clients allow a batch.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// The room that all calls of a registry share.
#[derive(Debug)]
pub(crate) struct Room {
    taken: Arc<Semaphore>,
    given: Arc<Semaphore>,
    /// Longest wait for it.
    wait: Duration,
}

impl Default for Room {
    fn default() -> Self {
        Self::with(LONGEST_WAIT)
    }
}

impl Room {
    fn with(wait: Duration) -> Self {
        Self {
            taken: Arc::new(Semaphore::new(TAKEN)),
            given: Arc::new(Semaphore::new(GIVEN)),
            wait,
        }
    }

    /// Waits until a call of this path may begin; None if it moves no chunks.
    ///
    /// # Errors
    /// [`RegistryError::Busy`].
    async fn enter(&self, path: &str) -> Result<Option<OwnedSemaphorePermit>, RegistryError> {
        let method = path.rsplit('/').next().unwrap_or_default();
        let (room, limit) = match method {
            "WriteChunks" => (&self.taken, TAKEN),
            "ReadChunks" | "CheckChunks" => (&self.given, GIVEN),
            _ => return Ok(None),
        };
        let permit = Arc::clone(room).acquire_owned();
        match tokio::time::timeout(self.wait, permit).await {
            Ok(Ok(permit)) => Ok(Some(permit)),
            // The semaphore is never closed.
            Err(_) | Ok(Err(_)) => Err(RegistryError::Busy {
                what: "batches of chunks",
                limit,
            }),
        }
    }
}

/// A registry's service that lets calls in as there is room for their chunks.
#[derive(Clone, Debug)]
pub struct Admitted<S> {
    inner: S,
    room: Arc<Room>,
}

impl<S> Admitted<S> {
    pub(crate) fn new(inner: S, room: Arc<Room>) -> Self {
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
            let permit = match room.enter(request.uri().path()).await {
                Ok(Some(permit)) => Arc::new(permit),
                Ok(None) => return inner.call(request).await,
                Err(error) => return Ok(Status::from(error).into_http()),
            };
            let answer = inner.call(request).await?;
            Ok(answer.map(|body| held(body, permit)))
        })
    }
}

/// The body, whose permit returns with the last of its bytes: the transport's buffers share them.
fn held(body: Body, permit: Arc<OwnedSemaphorePermit>) -> Body {
    Body::new(body.map_frame(move |frame| {
        frame.map_data(|bytes| {
            let permit = Arc::clone(&permit);
            Bytes::from_owner(Held {
                bytes,
                _permit: permit,
            })
        })
    }))
}

struct Held {
    bytes: Bytes,
    _permit: Arc<OwnedSemaphorePermit>,
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

    fn request(method: &str) -> http::Request<()> {
        let uri = format!("/espalier.v1.RegistryService/{method}");
        http::Request::builder().uri(uri).body(()).unwrap()
    }

    fn admitted() -> (Admitted<Answers>, Arc<Room>) {
        let room = Arc::new(Room::with(Duration::from_secs(1)));
        (Admitted::new(Answers, Arc::clone(&room)), room)
    }

    #[tokio::test]
    async fn an_answer_counts_until_the_last_of_its_bytes_is_gone() {
        let (mut service, room) = admitted();
        let answer = service.call(request("ReadChunks")).await.unwrap();
        let mut body = answer.into_body();
        let frame = body.frame().await.expect("a frame").expect("no error");
        let bytes = frame.into_data().expect("data");
        drop(body);
        let rest = bytes.slice(..1);
        drop(bytes);
        assert_eq!(room.given.available_permits(), GIVEN - 1);
        drop(rest);
        assert_eq!(room.given.available_permits(), GIVEN);
    }

    #[tokio::test]
    async fn who_finds_no_room_waits_and_is_told_in_the_end() {
        let (mut service, _) = admitted();
        let mut answers = Vec::new();
        for _ in 0..TAKEN {
            answers.push(service.call(request("WriteChunks")).await.unwrap());
        }
        let mut waiting = service.call(request("WriteChunks"));
        let waits = poll_fn(|cx| Poll::Ready(waiting.as_mut().poll(cx).is_pending())).await;
        assert!(waits);
        // The other direction and what moves no chunks do not wait.
        for method in ["ReadChunks", "CheckChunks", "GetCheckpoint"] {
            let answer = service.call(request(method)).await.unwrap();
            assert!(answer.headers().get("grpc-status").is_none(), "{method}");
        }
        answers.pop();
        assert!(
            waiting
                .await
                .unwrap()
                .headers()
                .get("grpc-status")
                .is_none()
        );
        answers.push(service.call(request("WriteChunks")).await.unwrap());
        let refused = service.call(request("WriteChunks")).await.unwrap();
        let status = Status::from_header_map(refused.headers()).expect("a status");
        assert_eq!(status.code(), tonic::Code::ResourceExhausted);
        assert!(status.message().contains("at most 8"), "{status}");
    }
}
