//! The registry's part of the server, and a server that is a registry or a mirror of one alone.

use std::sync::Arc;

use espalier_proto::v1::registry_service_server::RegistryServiceServer;
use espalier_proto::v1::token_service_server::TokenServiceServer;
use espalier_registry::{MirrorService, NoJobs, RegistryService};
use espalier_store::Store;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tracing::{info, warn};

use super::door::{self, Door};
use super::{DRAIN, Options, ServeError, reflected};
use crate::auth::Tokens;
use crate::blobs_place::Place;

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
    place: &Place,
    door: Door,
    stop: CancellationToken,
) -> Result<(), ServeError> {
    let guard = door::guard(options, store)?;
    let leader = store.campaign(&options.advertise).await?;
    place.claim(&leader).await?;
    let blobs = place.blobs(options.registry_quota).await?;
    let halt = stop.child_token();
    if let Some(mirror) = &options.mirror {
        let service = MirrorService::open(blobs, leader, mirror).await?;
        info!(upstream = mirror.upstream.join(","), "mirroring");
        let routes = alone(Routes::new(service.clone().into_server())).await?;
        let served = door.serve(routes, guard, halt).await;
        if tokio::time::timeout(DRAIN, service.drain()).await.is_err() {
            warn!("chunks were still being fetched when the time to drain was over");
        }
        return served;
    }
    let tokens = TokenServiceServer::new(Tokens::alone(leader.clone()));
    let registry = RegistryService::new(blobs, leader, Arc::new(NoJobs));
    let routes = Routes::new(registry.clone().into_server()).add_service(tokens);
    let routes = alone(routes).await?;
    let served = async {
        let served = door.serve(routes, guard, halt.clone()).await;
        halt.cancel();
        served
    };
    let (served, ()) = tokio::join!(served, registry.clone().keep_clean(halt.clone()));
    drain(&registry).await;
    served
}

/// With health, which is good as long as it serves, and reflection.
async fn alone(routes: Routes) -> Result<Routes, ServeError> {
    let (health, health_service) = tonic_health::server::health_reporter();
    health
        .set_serving::<RegistryServiceServer<RegistryService>>()
        .await;
    reflected(routes.add_service(health_service))
}
