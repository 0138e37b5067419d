//! Connections to the coordinator.

mod leader;

use std::time::Duration;

use espalier_proto::v1::ListCheckpointsRequest;
use espalier_proto::v1::job_service_client::JobServiceClient;
use espalier_proto::v1::registry_service_client::RegistryServiceClient;
use espalier_proto::v1::worker_service_client::WorkerServiceClient;
use espalier_proto::{MAX_MESSAGE, MAX_REGISTRY_MESSAGE};
use tonic::Request;

use crate::exit::Failure;
pub(crate) use leader::Leader;

/// Deadline of a call that answers once.
pub(crate) const UNARY_DEADLINE: Duration = Duration::from_secs(15);

/// Client of the job service.
pub(crate) async fn jobs(endpoint: &str) -> Result<JobServiceClient<Leader>, Failure> {
    let leader = Leader::connect(endpoint).await?;
    Ok(JobServiceClient::new(leader).max_decoding_message_size(MAX_MESSAGE))
}

/// Client of the worker service.
pub(crate) async fn workers(endpoint: &str) -> Result<WorkerServiceClient<Leader>, Failure> {
    let leader = Leader::connect(endpoint).await?;
    Ok(WorkerServiceClient::new(leader).max_decoding_message_size(MAX_MESSAGE))
}

/// Client of the registry service.
pub(crate) async fn registry(endpoint: &str) -> Result<RegistryServiceClient<Leader>, Failure> {
    Ok(registry_at(Leader::connect(endpoint).await?))
}

/// Client that moves checkpoints to and from the coordinator that leads.
pub(crate) async fn checkpoints(endpoint: &str) -> Result<espalier_registry::Client, Failure> {
    let leader = Leader::connect(endpoint).await?;
    // Any call finds the leader; this one asks for little.
    let request = ListCheckpointsRequest {
        page_size: 1,
        ..ListCheckpointsRequest::default()
    };
    registry_at(leader.clone())
        .list_checkpoints(unary(request))
        .await
        .map_err(Failure::rpc("looking for the registry"))?;
    Ok(espalier_registry::Client::connect(&leader.url()).await?)
}

fn registry_at(leader: Leader) -> RegistryServiceClient<Leader> {
    RegistryServiceClient::new(leader)
        .max_decoding_message_size(MAX_REGISTRY_MESSAGE)
        .max_encoding_message_size(MAX_REGISTRY_MESSAGE)
}

/// A request that must be answered within [`UNARY_DEADLINE`].
pub(crate) fn unary<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(UNARY_DEADLINE);
    request
}
