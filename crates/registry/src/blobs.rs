//! The chunks that are stored: verified when they are taken, counted, and put aside when found damaged.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::chunks::{Stored, decode};
use crate::files::blocking;
use crate::objects::{Folder, Head, Listed, Objects, Page};
use crate::{Bucket, ChunkId, Digest, RegistryError};

/// Chunks in a folder or a bucket. Clones share it. Of the processes that use one place, all of the same
/// store, only the leader may change it.
#[derive(Clone)]
pub struct Blobs(Arc<Inner>);

struct Inner {
    objects: Box<dyn Objects>,
    chunks: AtomicU64,
    /// Bytes that the objects take.
    stored: AtomicU64,
    /// Most bytes that they may take.
    quota: Option<u64>,
}

impl Blobs {
    /// Opens the folder, making it if it is not there, and counts what is in it.
    ///
    /// # Errors
    /// [`RegistryError::Io`].
    pub async fn open(root: impl AsRef<Path>) -> Result<Self, RegistryError> {
        Self::with_quota(root, None).await
    }

    /// Opens the folder; refuses chunks that would make it larger than `quota` bytes.
    ///
    /// # Errors
    /// [`RegistryError::Io`].
    pub async fn with_quota(
        root: impl AsRef<Path>,
        quota: Option<u64>,
    ) -> Result<Self, RegistryError> {
        let folder = Folder::open(root.as_ref()).await?;
        Self::over(Box::new(folder), quota).await
    }

    /// Takes a bucket, and counts what is in it: a request for each 1,000 chunks. Refuses chunks that
    /// would make it larger than `quota` bytes.
    ///
    /// # Errors
    /// [`RegistryError::Bucket`].
    pub async fn in_bucket(bucket: Bucket, quota: Option<u64>) -> Result<Self, RegistryError> {
        Self::over(Box::new(bucket), quota).await
    }

    pub(crate) async fn over(
        objects: Box<dyn Objects>,
        quota: Option<u64>,
    ) -> Result<Self, RegistryError> {
        let (mut chunks, mut stored) = (0, 0);
        let mut next = None;
        loop {
            let page = objects.list(next).await?;
            chunks += page.objects.len() as u64;
            stored += page.objects.iter().map(|(_, bytes)| bytes).sum::<u64>();
            next = page.next;
            if next.is_none() {
                break;
            }
        }
        Ok(Self(Arc::new(Inner {
            objects,
            chunks: AtomicU64::new(chunks),
            stored: AtomicU64::new(stored),
            quota,
        })))
    }

    /// (chunks, bytes they take, most bytes they may take).
    pub(crate) fn usage(&self) -> (u64, u64, Option<u64>) {
        (
            self.0.chunks.load(Ordering::Relaxed),
            self.0.stored.load(Ordering::Relaxed),
            self.0.quota,
        )
    }

    /// Those that are not here.
    pub(crate) async fn missing(&self, ids: &[ChunkId]) -> Result<Vec<ChunkId>, RegistryError> {
        let heads = self.heads(ids).await?;
        let absent = |(id, head): (&ChunkId, Option<Head>)| {
            (!head.is_some_and(|head| head.fits(*id))).then_some(*id)
        };
        Ok(ids.iter().zip(heads).filter_map(absent).collect())
    }

    async fn heads(&self, ids: &[ChunkId]) -> Result<Vec<Option<Head>>, RegistryError> {
        let digests = ids.iter().map(|id| id.digest).collect();
        self.0.objects.head(digests).await
    }

    /// Verifies chunks and stores those that are not here; durable when it answers.
    pub(crate) async fn put(&self, chunks: Vec<(ChunkId, Stored)>) -> Result<(), RegistryError> {
        let chunks = blocking(move || {
            for (id, stored) in &chunks {
                decode(*id, stored).map_err(|problem| RegistryError::Mismatch {
                    digest: id.digest,
                    problem,
                })?;
            }
            Ok::<_, RegistryError>(chunks)
        })
        .await?;
        self.store(chunks).await
    }

    /// Stores verified chunks that are not here; durable when it answers.
    pub(crate) async fn store(&self, chunks: Vec<(ChunkId, Stored)>) -> Result<(), RegistryError> {
        let ids: Vec<ChunkId> = chunks.iter().map(|(id, _)| *id).collect();
        let heads = self.heads(&ids).await?;
        let mut absent: Vec<(Digest, Stored)> = chunks
            .into_iter()
            .zip(heads)
            .filter(|((id, _), head)| !head.is_some_and(|head| head.fits(*id)))
            .map(|((id, stored), _)| (id.digest, stored))
            .collect();
        absent.sort_by_key(|(digest, _)| *digest);
        absent.dedup_by_key(|(digest, _)| *digest);
        if absent.is_empty() {
            return Ok(());
        }
        let needed = absent.iter().map(|(_, s)| s.data.len() as u64).sum();
        self.check_room(needed).await?;
        let grown = self.0.objects.put(absent).await?;
        self.0.chunks.fetch_add(grown.objects, Ordering::Relaxed);
        // In two's complement a sum that wraps around takes away.
        let bytes = grown.bytes.cast_unsigned();
        self.0.stored.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    async fn check_room(&self, needed: u64) -> Result<(), RegistryError> {
        let stored = self.0.stored.load(Ordering::Relaxed);
        if let Some(quota) = self.0.quota
            && stored.saturating_add(needed) > quota
        {
            return Err(RegistryError::Quota {
                needed,
                stored,
                quota,
            });
        }
        match self.0.objects.available().await? {
            Some(available) if needed > available => {
                Err(RegistryError::NoSpace { needed, available })
            }
            _ => Ok(()),
        }
    }

    /// A chunk as it is stored. It is only looked at as far as reading it needs.
    pub(crate) async fn get(&self, id: ChunkId) -> Result<Stored, RegistryError> {
        let stored = self.0.objects.get(id.digest).await?;
        let stored = stored.ok_or_else(|| RegistryError::NotFound {
            what: "chunk",
            name: id.digest.to_string(),
        })?;
        if stored.size != id.size {
            return Err(RegistryError::Damaged {
                digest: id.digest,
                problem: format!("it has {} bytes, not {}", stored.size, id.size),
            });
        }
        Ok(stored)
    }

    /// A chunk as it is stored, verified. One that is damaged is put aside: it is missing from then on,
    /// so that writing it restores it.
    pub(crate) async fn get_verified(&self, id: ChunkId) -> Result<Stored, RegistryError> {
        let verified = match self.get(id).await {
            Ok(stored) => {
                blocking(move || {
                    let damaged = |problem| RegistryError::Damaged {
                        digest: id.digest,
                        problem,
                    };
                    decode(id, &stored).map_err(damaged)?;
                    Ok(stored)
                })
                .await
            }
            other => other,
        };
        if let Err(RegistryError::Damaged { problem, .. }) = &verified {
            tracing::error!(digest = %id.digest, problem, "chunk is damaged; put aside");
            let freed = self.0.objects.set_aside(id.digest).await?;
            self.forget(u64::from(freed > 0), freed);
        }
        verified
    }

    /// Removes chunks; returns the bytes freed.
    pub(crate) async fn delete(&self, digests: Vec<Digest>) -> Result<u64, RegistryError> {
        let count = digests.len() as u64;
        let freed = self.0.objects.delete(digests).await?;
        self.forget(count, freed);
        Ok(freed)
    }

    pub(crate) async fn list(&self, after: Option<Page>) -> Result<Listed, RegistryError> {
        self.0.objects.list(after).await
    }

    fn forget(&self, chunks: u64, bytes: u64) {
        for (counter, by) in [(&self.0.chunks, chunks), (&self.0.stored, bytes)] {
            let _ = counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| {
                Some(n.saturating_sub(by))
            });
        }
    }
}

impl std::fmt::Debug for Blobs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Blobs").finish_non_exhaustive()
    }
}
