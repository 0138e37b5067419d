//! A channel to whichever of the coordinators leads: a call that one of the others turns away goes to
//! where it points.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use anyhow::anyhow;
use espalier_auth::{Access, Bearer};
use espalier_proto::not_leader;
use http_body_util::{BodyExt as _, Full};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, StdError, http};
use tonic::transport::{Channel, Endpoint};

use crate::exit::Failure;

/// Most coordinators that a call goes to.
const HOPS: u32 = 8;

/// Pause when there is nowhere else to go: who leads may be about to change.
const PAUSE: Duration = Duration::from_millis(300);

/// Clones share the connection.
#[derive(Clone, Debug)]
pub(crate) struct Leader {
    given: Arc<[Endpoint]>,
    access: Access,
    bearer: Bearer,
    current: Arc<Mutex<(Endpoint, Channel)>>,
}

impl Leader {
    /// Connects to the first that answers of the coordinators given, by commas.
    ///
    /// # Errors
    /// When one cannot be asked so, or nobody listens at any.
    pub(crate) async fn connect(endpoints: &str, access: Access) -> Result<Self, Failure> {
        let given: Vec<Endpoint> = endpoints
            .split(',')
            .map(|url| endpoint(url.trim(), &access))
            .collect::<Result<_, _>>()?;
        let current = first(&given).await.map_err(|error| {
            let error = anyhow!(error);
            error.context(format!(
                "no coordinator at {endpoints}: start one with `espalier up`, or pass --endpoint"
            ))
        })?;
        Ok(Self {
            bearer: access.bearer()?,
            access,
            given: given.into(),
            current: Arc::new(Mutex::new(current)),
        })
    }

    /// URL of the one that is called.
    pub(crate) fn url(&self) -> String {
        let url = self.lock().0.uri().to_string();
        url.trim_end_matches('/').to_owned()
    }

    /// Goes where `leader` says, or else to the next that answers.
    async fn follow(&self, leader: Option<String>) {
        let (at, _) = self.lock().clone();
        let scheme = at.uri().scheme_str().unwrap_or("http");
        // Where the token must not go is not followed.
        let hint =
            leader.and_then(|leader| endpoint(&format!("{scheme}://{leader}"), &self.access).ok());
        let elsewhere = |endpoint: &&Endpoint| endpoint.uri() != at.uri();
        let ways: Vec<Endpoint> = hint
            .iter()
            .chain(self.given.iter())
            .filter(elsewhere)
            .cloned()
            .collect();
        match first(&ways).await {
            Ok(found) => *self.lock() = found,
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }

    /// The pair is replaced whole, whatever happened to the thread that held it.
    fn lock(&self) -> MutexGuard<'_, (Endpoint, Channel)> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Service<http::Request<Body>> for Leader {
    type Response = http::Response<Body>;
    type Error = StdError;
    type Future = BoxFuture<Self::Response, StdError>;

    fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<Result<(), StdError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let leader = self.clone();
        Box::pin(async move {
            let (mut parts, body) = request.into_parts();
            if let Some(token) = leader.bearer.value() {
                let mut token = http::HeaderValue::from_bytes(token.as_encoded_bytes())?;
                token.set_sensitive(true);
                parts.headers.insert(http::header::AUTHORIZATION, token);
            }
            // One message of ours, kept so that it can be sent again.
            let body = body.collect().await?.to_bytes();
            let mut hops = 1;
            loop {
                let mut channel = leader.lock().1.clone();
                let body = Body::new(Full::new(body.clone()));
                poll_fn(|cx| channel.poll_ready(cx)).await?;
                let answer = channel
                    .call(http::Request::from_parts(parts.clone(), body))
                    .await?;
                let status = Status::from_header_map(answer.headers());
                match status.as_ref().and_then(not_leader) {
                    Some(hint) if hops < HOPS => leader.follow(hint).await,
                    _ => return Ok(answer),
                }
                hops += 1;
            }
        })
    }
}

fn endpoint(url: &str, access: &Access) -> Result<Endpoint, Failure> {
    Ok(access
        .endpoint(url)?
        .connect_timeout(Duration::from_secs(3))
        .http2_keep_alive_interval(Duration::from_secs(1))
        .keep_alive_timeout(Duration::from_secs(3)))
}

/// Connects to the first that answers; the error is that of the last.
async fn first(endpoints: &[Endpoint]) -> Result<(Endpoint, Channel), StdError> {
    let mut failed: StdError = "there is none".into();
    for endpoint in endpoints {
        match endpoint.connect().await {
            Ok(channel) => return Ok((endpoint.clone(), channel)),
            Err(error) => failed = error.into(),
        }
    }
    Err(failed)
}
