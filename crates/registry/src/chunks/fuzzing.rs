//! What must hold of any bytes: property tests call it with bytes at random and damaged files, the
//! targets in `fuzz/` with those that reach new code.

use crate::{Digest, Manifest};

use super::codec::{Encoding, Stored, decode};
use super::safetensors::parts;
use super::{ChunkId, MAX_CHUNK};

/// A manifest that is read is the one that its bytes say.
pub fn manifest(bytes: &[u8]) {
    if let Ok(manifest) = Manifest::parse(bytes) {
        assert_eq!(manifest.to_bytes().ok().as_deref(), Some(bytes));
    }
}

/// Of a frame nothing comes but the chunk that was asked for. The first byte says whether it is
/// compressed, the next three how large the chunk is said to be.
pub fn chunk(bytes: &[u8]) {
    let Some((&[packed, a, b, c], data)) = bytes.split_first_chunk::<4>() else {
        return;
    };
    let size = u64::from(u32::from_le_bytes([a, b, c, 0]));
    let (encoding, plain) = if packed & 1 == 1 {
        let room = (size as usize).min(MAX_CHUNK);
        (Encoding::Zstd, zstd::bulk::decompress(data, room).ok())
    } else {
        (Encoding::Raw, Some(data.to_vec()))
    };
    let stored = Stored {
        encoding,
        size,
        data: data.to_vec().into(),
    };
    let digest = Digest::of(plain.as_deref().unwrap_or(data));
    if let Ok(found) = decode(ChunkId { digest, size }, &stored) {
        assert_eq!(ChunkId::of(&found), ChunkId { digest, size });
    }
    let digest = Digest::of(b"of another chunk");
    assert!(decode(ChunkId { digest, size }, &stored).is_err());
}

/// A file is cut into all of itself or not at all, whatever its header says.
pub fn safetensors(bytes: &[u8]) {
    let size = bytes.len() as u64;
    let found = parts(&mut &bytes[..], size);
    assert!(found.is_ok(), "bytes in memory are read: {found:?}");
    if let Ok(Some(parts)) = found {
        assert_eq!(parts.iter().sum::<u64>(), size);
    }
}
