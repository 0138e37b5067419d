//! Chunks in and out.

use espalier_proto::MAX_BATCH;
use espalier_proto::v1 as pb;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::requests::{chunk_ids, chunks, lease};
use super::{RegistryService, requests};
use crate::chunks::Stored;
use crate::{ChunkId, Digest, MAX_CHUNK, RegistryError};

/// Most chunks that are asked for at once.
const MAX_FIND: usize = 10_000;

/// Chunks of one call that are read at once: a bucket answers each only after a while.
const READS: usize = 8;

/// Most bytes of chunks, before compression, that are verified in one call.
const MAX_CHECK: u64 = 64 << 20;

/// Most bytes of chunks, before compression, that are taken in one call: what a push sends together. A
/// few kilobytes that unpack to gigabytes would keep the processors busy.
const MAX_WRITE: u64 = 2 * MAX_CHUNK as u64;

impl RegistryService {
    pub(crate) async fn find_missing(
        &self,
        request: &pb::FindMissingChunksRequest,
    ) -> Result<Vec<ChunkId>, RegistryError> {
        let ids = chunk_ids(&request.chunks, MAX_FIND)?;
        let _gate = self.0.gate.read().await;
        self.pin(&request.lease, ids.iter().map(|id| id.digest))?;
        self.0.blobs.missing(&ids).await
    }

    pub(crate) async fn write(&self, request: pb::WriteChunksRequest) -> Result<(), RegistryError> {
        let chunks = chunks(request.chunks, MAX_BATCH)?;
        let sum: usize = chunks.iter().map(|(_, stored)| stored.data.len()).sum();
        requests::check_count("chunks: bytes of data", sum, MAX_CHUNK)?;
        let ids: Vec<ChunkId> = chunks.iter().map(|(id, _)| *id).collect();
        check_batch(&ids, MAX_WRITE)?;
        let _gate = self.0.gate.read().await;
        self.pin(&request.lease, chunks.iter().map(|(id, _)| id.digest))?;
        self.0.blobs.put(chunks).await
    }

    pub(crate) async fn read(
        &self,
        request: &pb::ReadChunksRequest,
    ) -> Result<Vec<pb::Chunk>, RegistryError> {
        let ids = chunk_ids(&request.chunks, MAX_BATCH)?;
        check_batch(&ids, MAX_CHUNK as u64)?;
        self.pin(&request.lease, [])?;
        let read = |id: ChunkId| async move {
            let stored = if request.verify {
                self.0.blobs.get_verified(id).await?
            } else {
                self.0.blobs.get(id).await?
            };
            Ok(stored.into_proto(id))
        };
        let reads = stream::iter(ids.into_iter().map(read));
        reads.buffered(READS).try_collect().await
    }

    pub(super) async fn check(
        &self,
        request: &pb::CheckChunksRequest,
    ) -> Result<Vec<pb::Finding>, RegistryError> {
        let ids = chunk_ids(&request.chunks, MAX_BATCH)?;
        check_batch(&ids, MAX_CHECK)?;
        let look = |id: ChunkId| async move {
            let problem = match self.0.blobs.get_verified(id).await {
                Ok(_) => return Ok(None),
                Err(RegistryError::Damaged { problem, .. }) => problem,
                Err(RegistryError::NotFound { .. }) => "it is missing".to_owned(),
                Err(error) => return Err(error),
            };
            Ok(Some(pb::Finding {
                chunk: Some(id.to_proto()),
                problem,
            }))
        };
        let looks = stream::iter(ids.into_iter().map(look)).buffered(READS);
        looks
            .try_filter_map(|found| async move { Ok(found) })
            .try_collect()
            .await
    }

    /// Pins chunks under the lease that a request names, if it names one.
    pub(super) fn pin(
        &self,
        named: &str,
        chunks: impl IntoIterator<Item = Digest>,
    ) -> Result<(), RegistryError> {
        match lease(named)? {
            Some(lease) => self.pins().pin(self.0.clock.monotonic(), lease, chunks),
            None => Ok(()),
        }
    }
}

pub(crate) fn check_batch(ids: &[ChunkId], most: u64) -> Result<(), RegistryError> {
    let sum: u64 = ids.iter().map(|id| id.size).sum();
    if sum > most {
        let problem = format!("at most {most} bytes before compression, not {sum}");
        return Err(RegistryError::argument("chunks", problem));
    }
    Ok(())
}

impl Stored {
    /// As it is sent.
    pub(crate) fn into_proto(self, id: ChunkId) -> pb::Chunk {
        pb::Chunk {
            id: Some(id.to_proto()),
            encoding: pb::Encoding::from(self.encoding).into(),
            data: self.data,
        }
    }
}

impl ChunkId {
    pub(crate) fn to_proto(self) -> pb::ChunkId {
        pb::ChunkId {
            digest: self.digest.to_string(),
            size: self.size,
        }
    }
}
