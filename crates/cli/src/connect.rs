//! Connections to the coordinator.

use std::time::Duration;

use anyhow::Context as _;
use espalier_proto::v1::job_service_client::JobServiceClient;
use espalier_proto::v1::registry_service_client::RegistryServiceClient;
use espalier_proto::v1::worker_service_client::WorkerServiceClient;
use espalier_proto::{MAX_MESSAGE, MAX_REGISTRY_MESSAGE};
use tonic::Request;
use tonic::transport::{Channel, Endpoint};

use crate::exit::Failure;

/// Deadline of a call that answers once.
pub(crate) const UNARY_DEADLINE: Duration = Duration::from_secs(15);

/// A channel to the coordinator, open.
///
/// # Errors
/// When the endpoint is no URL, or nobody listens there.
pub(crate) async fn channel(endpoint: &str) -> Result<Channel, Failure> {
    let address = Endpoint::from_shared(endpoint.to_owned())
        .map_err(|e| Failure::Usage(format!("--endpoint {endpoint:?}: {e}")))?
        .connect_timeout(Duration::from_secs(3))
        .http2_keep_alive_interval(Duration::from_secs(1))
        .keep_alive_timeout(Duration::from_secs(3));
    let channel = address.connect().await.with_context(|| {
        format!("no coordinator at {endpoint}: start one with `espalier up`, or pass --endpoint")
    })?;
    Ok(channel)
}

/// Client of the job service.
pub(crate) async fn jobs(endpoint: &str) -> Result<JobServiceClient<Channel>, Failure> {
    Ok(JobServiceClient::new(channel(endpoint).await?).max_decoding_message_size(MAX_MESSAGE))
}

/// Client of the worker service.
pub(crate) async fn workers(endpoint: &str) -> Result<WorkerServiceClient<Channel>, Failure> {
    Ok(WorkerServiceClient::new(channel(endpoint).await?).max_decoding_message_size(MAX_MESSAGE))
}

/// Client of the registry service.
pub(crate) async fn registry(endpoint: &str) -> Result<RegistryServiceClient<Channel>, Failure> {
    Ok(RegistryServiceClient::new(channel(endpoint).await?)
        .max_decoding_message_size(MAX_REGISTRY_MESSAGE)
        .max_encoding_message_size(MAX_REGISTRY_MESSAGE))
}

/// A request that must be answered within [`UNARY_DEADLINE`].
pub(crate) fn unary<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(UNARY_DEADLINE);
    request
}
