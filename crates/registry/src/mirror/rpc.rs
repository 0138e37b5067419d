//! The methods of a mirror: reads go through it, writes are pointed upstream.

use espalier_proto::MAX_BATCH;
use espalier_proto::v1::registry_service_server::RegistryService;
use espalier_proto::v1::*;
use tonic::{Request, Response, Status, async_trait};

use super::MirrorService;
use super::upstream::{ASK, refuse_mirrors};
use crate::client::Rpc;
use crate::service::{check_batch, chunk_ids, lease};
use crate::{MAX_CHUNK, RegistryError};

impl MirrorService {
    async fn read(&self, request: ReadChunksRequest) -> Result<Vec<Chunk>, RegistryError> {
        let ids = chunk_ids(&request.chunks, MAX_BATCH)?;
        check_batch(&ids, MAX_CHUNK as u64)?;
        lease(&request.lease)?;
        let stored = self.0.chunks.read(&ids, &request.lease).await?;
        let chunks = ids.into_iter().zip(stored);
        Ok(chunks.map(|(id, stored)| stored.into_proto(id)).collect())
    }

    async fn check(&self, request: &CheckChunksRequest) -> Result<Vec<Finding>, RegistryError> {
        let ids = chunk_ids(&request.chunks, MAX_BATCH)?;
        let mut findings = Vec::new();
        for id in ids {
            if let Some(problem) = self.0.chunks.check(id).await? {
                findings.push(Finding {
                    chunk: Some(id.to_proto()),
                    problem: format!("{problem}; put aside, and fetched when it is asked for"),
                });
            }
        }
        Ok(findings)
    }

    fn refused<T>(&self) -> Result<Response<T>, Status> {
        let upstream = self.0.upstream.name();
        Err(RegistryError::ReadOnly { upstream }.into())
    }
}

#[async_trait]
impl RegistryService for MirrorService {
    async fn read_chunks(
        &self,
        request: Request<ReadChunksRequest>,
    ) -> Result<Response<ReadChunksResponse>, Status> {
        refuse_mirrors(&request)?;
        let chunks = self.read(request.into_inner()).await?;
        Ok(Response::new(ReadChunksResponse { chunks }))
    }

    async fn get_checkpoint(
        &self,
        request: Request<GetCheckpointRequest>,
    ) -> Result<Response<GetCheckpointResponse>, Status> {
        refuse_mirrors(&request)?;
        let shared = &self.0;
        let answer = shared.names.get(request.into_inner(), &shared.chunks);
        Ok(Response::new(answer.await?))
    }

    async fn list_checkpoints(
        &self,
        request: Request<ListCheckpointsRequest>,
    ) -> Result<Response<ListCheckpointsResponse>, Status> {
        refuse_mirrors(&request)?;
        let answer = self.0.names.list(request.into_inner());
        Ok(Response::new(answer.await?))
    }

    async fn list_alias_history(
        &self,
        request: Request<ListAliasHistoryRequest>,
    ) -> Result<Response<ListAliasHistoryResponse>, Status> {
        refuse_mirrors(&request)?;
        let ask = |mut rpc: Rpc, request| async move { rpc.list_alias_history(request).await };
        let answer = self.0.upstream.ask(ASK, request.into_inner(), ask);
        Ok(Response::new(answer.await?))
    }

    async fn get_retention(
        &self,
        request: Request<GetRetentionRequest>,
    ) -> Result<Response<GetRetentionResponse>, Status> {
        refuse_mirrors(&request)?;
        let ask = |mut rpc: Rpc, request| async move { rpc.get_retention(request).await };
        let answer = self.0.upstream.ask(ASK, request.into_inner(), ask);
        Ok(Response::new(answer.await?))
    }

    async fn release_lease(
        &self,
        request: Request<ReleaseLeaseRequest>,
    ) -> Result<Response<ReleaseLeaseResponse>, Status> {
        refuse_mirrors(&request)?;
        lease(&request.get_ref().lease)?;
        let ask = |mut rpc: Rpc, request| async move { rpc.release_lease(request).await };
        // It ends by itself.
        if let Err(error) = self.0.upstream.ask(ASK, request.into_inner(), ask).await {
            tracing::debug!(%error, "lease not released upstream");
        }
        Ok(Response::new(ReleaseLeaseResponse {}))
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
        let (chunks, stored_bytes, quota) = self.0.chunks.blobs().usage();
        Ok(Response::new(GetUsageResponse {
            chunks,
            stored_bytes,
            quota_bytes: quota.unwrap_or_default(),
            leases: 0,
        }))
    }

    async fn find_missing_chunks(
        &self,
        _: Request<FindMissingChunksRequest>,
    ) -> Result<Response<FindMissingChunksResponse>, Status> {
        self.refused()
    }

    async fn write_chunks(
        &self,
        _: Request<WriteChunksRequest>,
    ) -> Result<Response<WriteChunksResponse>, Status> {
        self.refused()
    }

    async fn publish_checkpoint(
        &self,
        _: Request<PublishCheckpointRequest>,
    ) -> Result<Response<PublishCheckpointResponse>, Status> {
        self.refused()
    }

    async fn update_checkpoint(
        &self,
        _: Request<UpdateCheckpointRequest>,
    ) -> Result<Response<UpdateCheckpointResponse>, Status> {
        self.refused()
    }

    async fn delete_checkpoint(
        &self,
        _: Request<DeleteCheckpointRequest>,
    ) -> Result<Response<DeleteCheckpointResponse>, Status> {
        self.refused()
    }

    async fn update_alias(
        &self,
        _: Request<UpdateAliasRequest>,
    ) -> Result<Response<UpdateAliasResponse>, Status> {
        self.refused()
    }

    async fn set_retention(
        &self,
        _: Request<SetRetentionRequest>,
    ) -> Result<Response<SetRetentionResponse>, Status> {
        self.refused()
    }

    async fn collect_garbage(
        &self,
        _: Request<CollectGarbageRequest>,
    ) -> Result<Response<CollectGarbageResponse>, Status> {
        self.refused()
    }
}
