//! The methods of the service, thin.

use espalier_proto::v1::registry_service_server as server;
use espalier_proto::v1::*;
use tonic::{Request, Response, Status, async_trait};

use super::RegistryService;
use super::lookup::Visible;
use super::requests::lease;
use crate::RegistryError;

#[async_trait]
impl server::RegistryService for RegistryService {
    async fn find_missing_chunks(
        &self,
        request: Request<FindMissingChunksRequest>,
    ) -> Result<Response<FindMissingChunksResponse>, Status> {
        let missing = self.find_missing(request.get_ref()).await?;
        Ok(Response::new(FindMissingChunksResponse {
            missing: missing.into_iter().map(|id| id.to_proto()).collect(),
        }))
    }

    async fn write_chunks(
        &self,
        request: Request<WriteChunksRequest>,
    ) -> Result<Response<WriteChunksResponse>, Status> {
        self.write(request.into_inner()).await?;
        Ok(Response::new(WriteChunksResponse {}))
    }

    async fn read_chunks(
        &self,
        request: Request<ReadChunksRequest>,
    ) -> Result<Response<ReadChunksResponse>, Status> {
        let chunks = self.read(request.get_ref()).await?;
        Ok(Response::new(ReadChunksResponse { chunks }))
    }

    async fn release_lease(
        &self,
        request: Request<ReleaseLeaseRequest>,
    ) -> Result<Response<ReleaseLeaseResponse>, Status> {
        if let Some(lease) = lease(&request.get_ref().lease)? {
            self.pins().release(lease);
        }
        Ok(Response::new(ReleaseLeaseResponse {}))
    }

    async fn publish_checkpoint(
        &self,
        request: Request<PublishCheckpointRequest>,
    ) -> Result<Response<PublishCheckpointResponse>, Status> {
        let service = self.clone();
        // In a task of its own: were the client to go after the commit, the hook must still be woken.
        let published = self
            .0
            .publishes
            .spawn(async move { service.publish(request.into_inner()).await })
            .await
            .map_err(|e| RegistryError::io("publish")(std::io::Error::other(e)))?;
        Ok(Response::new(published?))
    }

    async fn get_checkpoint(
        &self,
        request: Request<GetCheckpointRequest>,
    ) -> Result<Response<GetCheckpointResponse>, Status> {
        Ok(Response::new(self.get(request.get_ref()).await?))
    }

    async fn list_checkpoints(
        &self,
        request: Request<ListCheckpointsRequest>,
    ) -> Result<Response<ListCheckpointsResponse>, Status> {
        let visible = request.extensions().get::<Visible>().cloned();
        let page = self.list(request.into_inner(), visible.as_ref()).await?;
        Ok(Response::new(page))
    }

    async fn update_checkpoint(
        &self,
        request: Request<UpdateCheckpointRequest>,
    ) -> Result<Response<UpdateCheckpointResponse>, Status> {
        let checkpoint = self.update(request.into_inner()).await?;
        Ok(Response::new(UpdateCheckpointResponse {
            checkpoint: Some(checkpoint),
        }))
    }

    async fn delete_checkpoint(
        &self,
        request: Request<DeleteCheckpointRequest>,
    ) -> Result<Response<DeleteCheckpointResponse>, Status> {
        self.delete(&request.get_ref().reference).await?;
        Ok(Response::new(DeleteCheckpointResponse {}))
    }

    async fn update_alias(
        &self,
        request: Request<UpdateAliasRequest>,
    ) -> Result<Response<UpdateAliasResponse>, Status> {
        Ok(Response::new(
            self.change_alias(request.into_inner()).await?,
        ))
    }

    async fn list_alias_history(
        &self,
        request: Request<ListAliasHistoryRequest>,
    ) -> Result<Response<ListAliasHistoryResponse>, Status> {
        Ok(Response::new(self.history(request.into_inner()).await?))
    }

    async fn get_retention(
        &self,
        request: Request<GetRetentionRequest>,
    ) -> Result<Response<GetRetentionResponse>, Status> {
        Ok(Response::new(
            self.retention(&request.get_ref().name).await?,
        ))
    }

    async fn set_retention(
        &self,
        request: Request<SetRetentionRequest>,
    ) -> Result<Response<SetRetentionResponse>, Status> {
        self.set_retention(request.into_inner()).await?;
        Ok(Response::new(SetRetentionResponse {}))
    }

    async fn collect_garbage(
        &self,
        request: Request<CollectGarbageRequest>,
    ) -> Result<Response<CollectGarbageResponse>, Status> {
        Ok(Response::new(
            self.collect(request.get_ref().dry_run).await?,
        ))
    }

    async fn check_chunks(
        &self,
        request: Request<CheckChunksRequest>,
    ) -> Result<Response<CheckChunksResponse>, Status> {
        let findings = self.check(request.get_ref()).await?;
        Ok(Response::new(CheckChunksResponse { findings }))
    }

    async fn get_usage(
        &self,
        _: Request<GetUsageRequest>,
    ) -> Result<Response<GetUsageResponse>, Status> {
        let (chunks, stored_bytes, quota) = self.0.blobs.usage();
        let leases = self.pins().leases(self.0.clock.monotonic());
        Ok(Response::new(GetUsageResponse {
            chunks,
            stored_bytes,
            quota_bytes: quota.unwrap_or_default(),
            leases: leases as u64,
        }))
    }
}
