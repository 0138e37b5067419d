//! A registry that answers what it likes, against which clients have to stand.

use espalier_proto::v1::registry_service_server::{
    RegistryService as Service, RegistryServiceServer,
};
use espalier_proto::v1::*;
use espalier_registry::{Client, Digest};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status, async_trait};

/// Its answers, whatever it is asked.
#[derive(Clone, Default)]
pub(crate) struct Hostile {
    pub(crate) checkpoint: GetCheckpointResponse,
    pub(crate) chunks: Vec<Chunk>,
}

impl Hostile {
    /// With a manifest of these bytes, under their own digest.
    pub(crate) fn with_manifest(manifest: impl Into<Vec<u8>>) -> Self {
        let manifest = manifest.into();
        Self {
            checkpoint: GetCheckpointResponse {
                checkpoint: Some(Checkpoint {
                    digest: Digest::of(&manifest).to_string(),
                    ..Checkpoint::default()
                }),
                manifest: manifest.into(),
                ..GetCheckpointResponse::default()
            },
            ..Self::default()
        }
    }

    /// A client of it, for as long as the guard lives.
    pub(crate) async fn serve(self) -> (Client, Guard) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let endpoint = format!("http://{}", listener.local_addr().expect("bound"));
        let service = RegistryServiceServer::new(self).max_encoding_message_size(64 << 20);
        let server = Server::builder()
            .add_service(service)
            .serve_with_incoming(TcpListenerStream::new(listener));
        let guard = Guard(tokio::spawn(async move { server.await.expect("serves") }));
        let client = Client::connect(&endpoint).await.expect("connects");
        (client, guard)
    }
}

/// Ends the server.
pub(crate) struct Guard(JoinHandle<()>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.abort();
    }
}

macro_rules! hostile {
    ($($method:ident: $request:ident -> $response:ident;)*) => {
        #[async_trait]
        impl Service for Hostile {
            async fn get_checkpoint(
                &self,
                _: Request<GetCheckpointRequest>,
            ) -> Result<Response<GetCheckpointResponse>, Status> {
                Ok(Response::new(self.checkpoint.clone()))
            }

            async fn read_chunks(
                &self,
                _: Request<ReadChunksRequest>,
            ) -> Result<Response<ReadChunksResponse>, Status> {
                Ok(Response::new(ReadChunksResponse {
                    chunks: self.chunks.clone(),
                }))
            }

            $(async fn $method(
                &self,
                _: Request<$request>,
            ) -> Result<Response<$response>, Status> {
                Err(Status::unimplemented(stringify!($method)))
            })*
        }
    };
}

hostile! {
    find_missing_chunks: FindMissingChunksRequest -> FindMissingChunksResponse;
    write_chunks: WriteChunksRequest -> WriteChunksResponse;
    release_lease: ReleaseLeaseRequest -> ReleaseLeaseResponse;
    publish_checkpoint: PublishCheckpointRequest -> PublishCheckpointResponse;
    list_checkpoints: ListCheckpointsRequest -> ListCheckpointsResponse;
    update_checkpoint: UpdateCheckpointRequest -> UpdateCheckpointResponse;
    delete_checkpoint: DeleteCheckpointRequest -> DeleteCheckpointResponse;
    update_alias: UpdateAliasRequest -> UpdateAliasResponse;
    list_alias_history: ListAliasHistoryRequest -> ListAliasHistoryResponse;
    get_retention: GetRetentionRequest -> GetRetentionResponse;
    set_retention: SetRetentionRequest -> SetRetentionResponse;
    collect_garbage: CollectGarbageRequest -> CollectGarbageResponse;
    check_chunks: CheckChunksRequest -> CheckChunksResponse;
    get_usage: GetUsageRequest -> GetUsageResponse;
}
