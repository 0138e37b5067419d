//! The gRPC service: requests checked, limits kept, errors in their gRPC shape.

mod lookup;
mod publish;
mod write;

use std::pin::Pin;
use std::sync::Arc;

use espalier_proto::MAX_MESSAGE;
use espalier_proto::v1::registry_service_server::{self as server, RegistryServiceServer};
use espalier_proto::v1::{
    self as pb, FindMissingBlobsRequest, FindMissingBlobsResponse, GetCheckpointRequest,
    GetCheckpointResponse, ListAliasHistoryRequest, ListAliasHistoryResponse,
    ListCheckpointsRequest, ListCheckpointsResponse, PublishCheckpointRequest,
    PublishCheckpointResponse, QueryWriteStatusRequest, QueryWriteStatusResponse, ReadBlobRequest,
    ReadBlobResponse, WriteBlobRequest, WriteBlobResponse,
};
use espalier_store::Leader;
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};
use tokio_stream::{Stream, StreamExt as _};
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming, async_trait};

use crate::blobs::{BlobId, BlobStream};
use crate::{Blobs, Digest, MAX_FILES, PublishHook, RegistryError};

/// Most uploads at once.
const MAX_UPLOADS: usize = 64;

/// Most downloads at once.
const MAX_DOWNLOADS: usize = 256;

/// The registry's gRPC service. Clones share its limits.
#[derive(Clone)]
pub struct RegistryService {
    blobs: Blobs,
    leader: Leader,
    hook: Arc<dyn PublishHook>,
    uploads: Arc<Semaphore>,
    downloads: Arc<Semaphore>,
    /// Publishes go one by one: they would only conflict.
    publishing: Arc<Mutex<()>>,
    publishes: TaskTracker,
}

impl RegistryService {
    /// A registry with its blobs in a folder and its records in the leader's store.
    pub fn new(blobs: Blobs, leader: Leader, hook: Arc<dyn PublishHook>) -> Self {
        Self {
            blobs,
            leader,
            hook,
            uploads: Arc::new(Semaphore::new(MAX_UPLOADS)),
            downloads: Arc::new(Semaphore::new(MAX_DOWNLOADS)),
            publishing: Arc::default(),
            publishes: TaskTracker::new(),
        }
    }

    /// As a tonic service, with the message bound of the interface.
    pub fn into_server(self) -> RegistryServiceServer<Self> {
        RegistryServiceServer::new(self)
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE)
    }

    /// Waits for the publishes under way, whose clients may have gone. Call it after the server has
    /// stopped and before the store is closed.
    pub async fn drain(&self) {
        self.publishes.close();
        self.publishes.wait().await;
    }
}

#[async_trait]
impl server::RegistryService for RegistryService {
    async fn find_missing_blobs(
        &self,
        request: Request<FindMissingBlobsRequest>,
    ) -> Result<Response<FindMissingBlobsResponse>, Status> {
        let blobs = request.into_inner().blobs;
        if blobs.len() > MAX_FILES {
            let problem = format!("at most {MAX_FILES}, not {}", blobs.len());
            return Err(RegistryError::argument("blobs", problem).into());
        }
        let ids = blobs
            .iter()
            .enumerate()
            .map(|(i, id)| blob_id(&format!("blobs[{i}]"), Some(id)))
            .collect::<Result<_, _>>()?;
        let missing = self.blobs.missing(ids).await?;
        Ok(Response::new(FindMissingBlobsResponse {
            missing: missing
                .into_iter()
                .map(|id| pb::BlobId {
                    digest: id.digest.to_string(),
                    size: id.size,
                })
                .collect(),
        }))
    }

    async fn write_blob(
        &self,
        request: Request<Streaming<WriteBlobRequest>>,
    ) -> Result<Response<WriteBlobResponse>, Status> {
        let _permit = admit(&self.uploads, "uploads", MAX_UPLOADS)?;
        let committed_size = write::receive(&self.blobs, request.into_inner()).await?;
        Ok(Response::new(WriteBlobResponse { committed_size }))
    }

    async fn query_write_status(
        &self,
        request: Request<QueryWriteStatusRequest>,
    ) -> Result<Response<QueryWriteStatusResponse>, Status> {
        let id = blob_id("blob", request.into_inner().blob.as_ref())?;
        let status = self.blobs.status(id).await?;
        Ok(Response::new(QueryWriteStatusResponse {
            committed_size: status.committed,
            complete: status.complete,
        }))
    }

    type ReadBlobStream = Pin<Box<dyn Stream<Item = Result<ReadBlobResponse, Status>> + Send>>;

    async fn read_blob(
        &self,
        request: Request<ReadBlobRequest>,
    ) -> Result<Response<Self::ReadBlobStream>, Status> {
        let request = request.into_inner();
        let digest = digest("digest", &request.digest)?;
        let permit = admit(&self.downloads, "downloads", MAX_DOWNLOADS)?;
        let pieces = BlobStream::open(&self.blobs, digest, request.offset, permit).await?;
        Ok(Response::new(Box::pin(pieces.map(|piece| {
            piece
                .map(|data| ReadBlobResponse { data })
                .map_err(Status::from)
        }))))
    }

    async fn publish_checkpoint(
        &self,
        request: Request<PublishCheckpointRequest>,
    ) -> Result<Response<PublishCheckpointResponse>, Status> {
        let service = self.clone();
        // In a task of its own: were the client to go after the commit, the hook must still be woken.
        let published = self
            .publishes
            .spawn(async move { service.publish(request.into_inner()).await })
            .await
            .map_err(|e| RegistryError::io("publish")(std::io::Error::other(e)))?;
        Ok(Response::new(PublishCheckpointResponse {
            digest: published?.to_string(),
        }))
    }

    async fn get_checkpoint(
        &self,
        request: Request<GetCheckpointRequest>,
    ) -> Result<Response<GetCheckpointResponse>, Status> {
        let found = self.find(&request.into_inner().reference).await?;
        Ok(Response::new(found))
    }

    async fn list_checkpoints(
        &self,
        request: Request<ListCheckpointsRequest>,
    ) -> Result<Response<ListCheckpointsResponse>, Status> {
        let page = self.list(request.into_inner()).await?;
        Ok(Response::new(page))
    }

    async fn list_alias_history(
        &self,
        request: Request<ListAliasHistoryRequest>,
    ) -> Result<Response<ListAliasHistoryResponse>, Status> {
        let page = self.history(request.into_inner()).await?;
        Ok(Response::new(page))
    }
}

fn admit(
    semaphore: &Arc<Semaphore>,
    what: &'static str,
    limit: usize,
) -> Result<OwnedSemaphorePermit, RegistryError> {
    Arc::clone(semaphore)
        .try_acquire_owned()
        .map_err(|_| RegistryError::Busy { what, limit })
}

fn digest(field: &str, text: &str) -> Result<Digest, RegistryError> {
    text.parse().map_err(|e| RegistryError::argument(field, e))
}

fn blob_id(field: &str, id: Option<&pb::BlobId>) -> Result<BlobId, RegistryError> {
    let id = id.ok_or_else(|| RegistryError::argument(field, "is missing"))?;
    Ok(BlobId {
        digest: digest(&format!("{field}.digest"), &id.digest)?,
        size: id.size,
    })
}
