//! Where chunks lie: a folder, or a bucket of an object store.

mod bucket;
#[cfg(test)]
mod conformance;
mod folder;
mod format;
#[cfg(test)]
pub(crate) mod memory;

use tonic::async_trait;

use crate::chunks::{Encoding, Stored};
use crate::{ChunkId, Digest, RegistryError};

pub use bucket::{Bucket, Patience};
pub(crate) use folder::Folder;
pub(crate) use format::HEADER as STORED_HEADER;

/// What is known of an object without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// Bytes of the chunk before compression.
    pub(crate) size: u64,
    /// Bytes that it takes.
    pub(crate) stored: u64,
}

/// By how much a put made what is stored larger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Grown {
    /// Objects that were not there before.
    pub(crate) objects: u64,
    /// Less than zero when a replaced object was larger.
    pub(crate) bytes: i64,
}

/// Immutable objects named by digests.
///
/// Bytes are not verified here: [`crate::Blobs`] does that on either side.
#[async_trait]
pub(crate) trait Objects: Send + Sync + 'static {
    /// Stores objects, atomically each and durably all when it answers. One that is there is replaced
    /// by what must be the same chunk.
    async fn put(&self, objects: Vec<(Digest, Stored)>) -> Result<Grown, RegistryError>;

    /// Reads an object; `None` when there is none. [`RegistryError::Damaged`] when it cannot be one.
    async fn get(&self, digest: Digest) -> Result<Option<Stored>, RegistryError>;

    /// What is known of these objects, in order.
    async fn head(&self, digests: Vec<Digest>) -> Result<Vec<Option<Head>>, RegistryError>;

    /// Removes objects, durably; those that are not there are removed. Returns the bytes freed.
    async fn delete(&self, digests: Vec<Digest>) -> Result<u64, RegistryError>;

    /// A page of objects in the order of their digests, after one of them: (digest, bytes it takes).
    /// A page may be empty; the last has no continuation.
    async fn list(&self, after: Option<Page>) -> Result<Listed, RegistryError>;

    /// Takes a damaged object out of the way, keeping it for whoever wants to look; returns its bytes.
    async fn set_aside(&self, digest: Digest) -> Result<u64, RegistryError>;

    /// Bytes that can be stored before the place is full, less a reserve; `None` when there is no end.
    async fn available(&self) -> Result<Option<u64>, RegistryError>;
}

/// Where a list goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Page {
    /// With the objects whose digests begin with this hex digit.
    Shard(u8),
    /// After this object.
    After(Digest),
}

/// A page of a list.
#[derive(Debug)]
pub(crate) struct Listed {
    pub(crate) objects: Vec<(Digest, u64)>,
    pub(crate) next: Option<Page>,
}

/// The wire's word for an encoding.
impl From<Encoding> for espalier_proto::v1::Encoding {
    fn from(encoding: Encoding) -> Self {
        match encoding {
            Encoding::Raw => Self::Unspecified,
            Encoding::Zstd => Self::Zstd,
        }
    }
}

impl Head {
    /// Whether it is of this chunk.
    pub(crate) fn fits(&self, id: ChunkId) -> bool {
        self.size == id.size
    }
}
