//! What bytes of strangers reach first, for the targets in `fuzz/`. Each panics when more comes of
//! them than may.

use crate::chunks::{Encoding, Stored, decode, safetensors_parts};
use crate::{ChunkId, Digest, Manifest};

/// A manifest is what its bytes say, or refused.
pub fn manifest(bytes: &[u8]) {
    if let Ok(manifest) = Manifest::parse(bytes) {
        assert_eq!(manifest.to_bytes().ok().as_deref(), Some(bytes));
        assert!(manifest.chunks().iter().all(|id| id.size > 0));
    }
}

/// A chunk is the one that was asked for, or refused: the first two bytes are its size, the rest is how
/// it came.
pub fn chunk(bytes: &[u8]) {
    let Some((size, data)) = bytes.split_first_chunk::<2>() else {
        return;
    };
    let size = u64::from(u16::from_le_bytes(*size));
    for encoding in [Encoding::Raw, Encoding::Zstd] {
        let id = ChunkId {
            digest: Digest::of(data),
            size,
        };
        let stored = Stored {
            encoding,
            size,
            data: data.to_vec().into(),
        };
        if let Ok(unpacked) = decode(id, &stored) {
            assert_eq!(ChunkId::of(&unpacked), id);
        }
    }
}

/// A safetensors file is cut into all of itself, or not by its header.
pub fn safetensors(bytes: &[u8]) {
    let size = bytes.len() as u64;
    if let Ok(Some(parts)) = safetensors_parts(&mut &*bytes, size) {
        assert_eq!(parts.iter().sum::<u64>(), size);
    }
}
