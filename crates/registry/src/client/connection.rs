use std::time::Duration;

use espalier_auth::{Access, Bearer};
use espalier_proto::v1::registry_service_client::RegistryServiceClient;
use espalier_proto::{CLIENT_WINDOW, MAX_FRAME, MAX_REGISTRY_MESSAGE};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use super::ClientError;
use super::retry::{MAX_TRIES, is_transient, pause};

/// Deadline of a unary call.
const CALL: Duration = Duration::from_secs(15);

/// Bytes a second of the slowest link that is waited for.
const SLOWEST: u64 = 128 << 10;

/// Longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(5);

/// Without keep-alive a cut link is never noticed.
const KEEP_ALIVE: Duration = Duration::from_secs(1);

/// How long an answer to a keep-alive may take: more than a busy machine needs.
const KEEP_ALIVE_ANSWER: Duration = Duration::from_secs(5);

/// What calls are made by.
pub(crate) type Rpc = RegistryServiceClient<InterceptedService<Channel, Bearer>>;

/// The connection to a registry.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    pub(crate) endpoint: String,
    rpc: Rpc,
}

impl Connection {
    pub(super) async fn open<F>(
        endpoint: &str,
        access: &Access,
        dial: impl FnOnce(Endpoint) -> F,
    ) -> Result<Self, ClientError>
    where
        F: Future<Output = Result<Channel, tonic::transport::Error>>,
    {
        let target = target(endpoint, access)?;
        let channel = dial(target).await.map_err(|e| ClientError::Unreachable {
            endpoint: endpoint.to_owned(),
            problem: deepest(&e),
        })?;
        Ok(Self::over(endpoint, channel, access.bearer()?))
    }

    /// Connects when it is first used.
    pub(crate) fn lazy(endpoint: &str, access: &Access) -> Result<Self, ClientError> {
        let channel = target(endpoint, access)?.connect_lazy();
        Ok(Self::over(endpoint, channel, access.bearer()?))
    }

    fn over(endpoint: &str, channel: Channel, bearer: Bearer) -> Self {
        let rpc = RegistryServiceClient::with_interceptor(channel, bearer)
            .max_decoding_message_size(MAX_REGISTRY_MESSAGE)
            .max_encoding_message_size(MAX_REGISTRY_MESSAGE);
        Self {
            endpoint: endpoint.to_owned(),
            rpc,
        }
    }

    pub(crate) fn rpc(&self) -> Rpc {
        self.rpc.clone()
    }

    pub(super) fn failed(&self, operation: impl Into<String>, status: Status) -> ClientError {
        ClientError::Rpc {
            operation: operation.into(),
            endpoint: self.endpoint.clone(),
            status: Box::new(status),
        }
    }

    /// Makes a unary call with a deadline, again a bounded number of times while it may help.
    pub(super) async fn call<T, F>(
        &self,
        operation: &str,
        call: impl FnMut(Rpc) -> F,
    ) -> Result<T, ClientError>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        self.call_within(CALL, operation, call).await
    }

    /// The same with a deadline of the caller's.
    pub(super) async fn call_within<T, F>(
        &self,
        deadline: Duration,
        operation: &str,
        mut call: impl FnMut(Rpc) -> F,
    ) -> Result<T, ClientError>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let mut failures = 0;
        loop {
            let answer = match tokio::time::timeout(deadline, call(self.rpc())).await {
                Ok(answer) => answer,
                Err(_) => Err(Status::deadline_exceeded(format!(
                    "no answer for {deadline:?}"
                ))),
            };
            match answer {
                Ok(answer) => return Ok(answer.into_inner()),
                Err(status) => {
                    failures += 1;
                    if failures == MAX_TRIES || !is_transient(&status) {
                        return Err(self.failed(operation, status));
                    }
                    tracing::debug!(operation, failures, %status, "call failed; trying again");
                    pause(failures, &status).await;
                }
            }
        }
    }
}

/// Where to connect, and how.
fn target(endpoint: &str, access: &Access) -> Result<Endpoint, ClientError> {
    Ok(access
        .endpoint(endpoint)?
        .connect_timeout(CONNECT)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE_ANSWER)
        .initial_stream_window_size(CLIENT_WINDOW)
        .initial_connection_window_size(CLIENT_WINDOW)
        .max_frame_size(MAX_FRAME)
        .tcp_nodelay(true))
}

/// A request that tells the server the deadline of a unary call.
pub(super) fn unary<T>(message: T) -> Request<T> {
    within(CALL, message)
}

/// A request that tells the server its deadline.
pub(crate) fn within<T>(deadline: Duration, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(deadline);
    request
}

/// Time that a transfer of this many bytes may take: a slow link's, so that only a dead one misses it.
pub(crate) fn transfer_deadline(bytes: u64) -> Duration {
    CALL + Duration::from_secs(bytes / SLOWEST)
}

/// What went wrong at the bottom: the layers above only say that something did.
fn deepest(error: &(dyn std::error::Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
