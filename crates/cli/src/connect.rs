//! Connections to the coordinator.

mod leader;

use std::time::Duration;

use espalier_auth::Access;
use espalier_proto::v1::GetUsageRequest;
use espalier_proto::v1::job_service_client::JobServiceClient;
use espalier_proto::v1::registry_service_client::RegistryServiceClient;
use espalier_proto::v1::token_service_client::TokenServiceClient;
use espalier_proto::v1::worker_service_client::WorkerServiceClient;
use espalier_proto::{MAX_MESSAGE, MAX_REGISTRY_MESSAGE};
use tonic::Request;

use crate::args::Global;
use crate::exit::Failure;
pub(crate) use leader::Leader;

/// Deadline of a call that answers once.
pub(crate) const UNARY_DEADLINE: Duration = Duration::from_secs(15);

/// Client of the job service.
pub(crate) async fn jobs(global: &Global) -> Result<JobServiceClient<Leader>, Failure> {
    let leader = leader(global).await?;
    Ok(JobServiceClient::new(leader).max_decoding_message_size(MAX_MESSAGE))
}

/// Client of the worker service.
pub(crate) async fn workers(global: &Global) -> Result<WorkerServiceClient<Leader>, Failure> {
    let leader = leader(global).await?;
    Ok(WorkerServiceClient::new(leader).max_decoding_message_size(MAX_MESSAGE))
}

/// Client of the registry service.
pub(crate) async fn registry(global: &Global) -> Result<RegistryServiceClient<Leader>, Failure> {
    Ok(registry_at(leader(global).await?))
}

/// Client of the tokens.
pub(crate) async fn tokens(global: &Global) -> Result<TokenServiceClient<Leader>, Failure> {
    let leader = leader(global).await?;
    Ok(TokenServiceClient::new(leader).max_decoding_message_size(MAX_MESSAGE))
}

/// Client that moves checkpoints to and from the coordinator that leads.
pub(crate) async fn checkpoints(global: &Global) -> Result<espalier_registry::Client, Failure> {
    let access = Access::new(global.access.clone())?;
    mover(&global.endpoint, &access).await
}

/// The same of another deployment, which has no business with the token.
pub(crate) async fn mirror(
    global: &Global,
    endpoint: &str,
) -> Result<espalier_registry::Client, Failure> {
    let access = Access::new(global.access.clone())?;
    mover(endpoint, &access.without_token()).await
}

async fn mover(endpoint: &str, access: &Access) -> Result<espalier_registry::Client, Failure> {
    let leader = Leader::connect(endpoint, access.clone()).await?;
    // Any call finds the leader; this one asks for little, and every token may make it.
    registry_at(leader.clone())
        .get_usage(unary(GetUsageRequest {}))
        .await
        .map_err(Failure::rpc("looking for the registry"))?;
    Ok(espalier_registry::Client::connect_as(&leader.url(), access).await?)
}

async fn leader(global: &Global) -> Result<Leader, Failure> {
    Leader::connect(&global.endpoint, Access::new(global.access.clone())?).await
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
