//! Pieces of files: where files are cut, how pieces are written, and what names them.

mod codec;
mod cut;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod safetensors;

use serde::{Deserialize, Serialize};

use crate::Digest;

pub(crate) use codec::{Encoding, Stored, decode, encode};
pub(crate) use cut::Cuts;

/// Largest chunk, in bytes before compression.
pub const MAX_CHUNK: usize = espalier_proto::MAX_CHUNK;

/// A chunk's name and size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChunkId {
    /// Of its bytes before compression.
    pub digest: Digest,
    /// Bytes before compression, 1 to [`MAX_CHUNK`].
    pub size: u64,
}

impl ChunkId {
    /// Of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self {
            digest: Digest::of(bytes),
            size: bytes.len() as u64,
        }
    }
}
