//! The registry's part of the server, and a server that is a registry alone.

use std::sync::Arc;

use espalier_proto::v1::registry_service_server::RegistryServiceServer;
use espalier_registry::{Blobs, NoJobs, RegistryService};
use espalier_store::Store;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::server::TcpIncoming;
use tracing::warn;

use super::{DRAIN, Options, ServeError, reflected, serve};

/// Opens the folder of chunks.
pub(crate) async fn open(options: &Options) -> Result<Blobs, ServeError> {
    let folder = options.data_dir.join("blobs");
    Ok(Blobs::with_quota(folder, options.registry_quota).await?)
}

/// A publish goes on when its client has left: the store must outlive it.
pub(crate) async fn drain(registry: &RegistryService) {
    if tokio::time::timeout(DRAIN, registry.drain()).await.is_err() {
        warn!("publishes were still under way when the time to drain was over");
    }
}

/// Serves the registry and nothing else until `stop`.
pub(super) async fn serve_alone(
    options: &Options,
    store: &Store,
    incoming: TcpIncoming,
    stop: CancellationToken,
) -> Result<(), ServeError> {
    let leader = store.campaign(&options.advertise).await?;
    let registry = RegistryService::new(open(options).await?, leader, Arc::new(NoJobs));
    let halt = stop.child_token();
    let (health, health_service) = tonic_health::server::health_reporter();
    health
        .set_serving::<RegistryServiceServer<RegistryService>>()
        .await;
    let routes = Routes::new(registry.clone().into_server()).add_service(health_service);
    let routes = reflected(routes)?;
    let served = async {
        let served = serve(incoming, routes, halt.clone()).await;
        halt.cancel();
        served
    };
    let (served, ()) = tokio::join!(served, registry.clone().keep_clean(halt.clone()));
    drain(&registry).await;
    served
}
