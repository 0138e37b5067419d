use std::cell::RefCell;

use prost::bytes::Bytes;
use zstd::bulk::Compressor;

use super::{ChunkId, MAX_CHUNK};
use crate::Digest;

/// On weights level 3 saves no more than level 1 and takes 1.4 times as long (docs/registry.md).
const LEVEL: i32 = 1;

/// A chunk is written compressed when that saves at least one part in this many. Less is not worth the time
/// that each push and pull would take longer (docs/registry.md).
const PAYS: usize = 8;

/// Bytes in the middle of a chunk that are tried first: those of a tensor are alike, and most do not pay.
const SAMPLE: usize = 64 << 10;

/// How a chunk's bytes are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    Raw,
    Zstd,
}

/// A chunk as it is written, on disk and on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) encoding: Encoding,
    /// Bytes before compression.
    pub(crate) size: u64,
    pub(crate) data: Bytes,
}

thread_local! {
    /// A context is a few hundred KiB and is worth keeping.
    static COMPRESSOR: RefCell<Option<Compressor<'static>>> = const { RefCell::new(None) };
}

/// Writes a chunk, compressed if that pays.
pub(crate) fn encode(bytes: Bytes) -> Stored {
    let size = bytes.len() as u64;
    let begin = bytes.len().saturating_sub(SAMPLE) / 2;
    let sample = &bytes[begin..bytes.len().min(begin + SAMPLE)];
    let packed = compress(sample).and_then(|packed| {
        let is_all = sample.len() == bytes.len();
        if is_all {
            Some(packed)
        } else {
            compress(&bytes)
        }
    });
    match packed {
        Some(data) => Stored {
            encoding: Encoding::Zstd,
            size,
            data: data.into(),
        },
        None => Stored {
            encoding: Encoding::Raw,
            size,
            data: bytes,
        },
    }
}

/// None when it does not pay, or zstd fails.
fn compress(bytes: &[u8]) -> Option<Vec<u8>> {
    COMPRESSOR.with_borrow_mut(|kept| {
        if kept.is_none() {
            *kept = Compressor::new(LEVEL).ok();
        }
        let packed = kept.as_mut()?.compress(bytes).ok()?;
        (packed.len() + bytes.len() / PAYS <= bytes.len()).then_some(packed)
    })
}

/// The bytes of a chunk, verified: nothing larger than `id.size`, which is at most [`MAX_CHUNK`], is
/// ever made of it.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn decode(id: ChunkId, stored: &Stored) -> Result<Bytes, String> {
    let size = usize::try_from(id.size).unwrap_or(usize::MAX);
    if size == 0 || size > MAX_CHUNK {
        return Err(format!(
            "a chunk has 1 to {MAX_CHUNK} bytes, not {}",
            id.size
        ));
    }
    if stored.size != id.size {
        return Err(format!("it has {} bytes, not {}", stored.size, id.size));
    }
    let bytes = match stored.encoding {
        Encoding::Raw => stored.data.clone(),
        Encoding::Zstd => zstd::bulk::decompress(&stored.data, size)
            .map_err(|e| format!("it cannot be decompressed to {size} bytes: {e}"))?
            .into(),
    };
    if bytes.len() != size {
        return Err(format!("it has {} bytes, not {size}", bytes.len()));
    }
    let found = Digest::of(&bytes);
    if found != id.digest {
        return Err(format!("its bytes have digest {found}"));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stored(encoding: Encoding, size: u64, data: Vec<u8>) -> Stored {
        Stored {
            encoding,
            size,
            data: data.into(),
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let digests: Vec<String> = (0..40_000_u32)
            .map(|i| Digest::of(&i.to_le_bytes()).hex())
            .collect();
        let digits = digests.concat().into_bytes();
        // As random as the low bytes of a weight, whose highest one says little.
        let weights: Vec<u8> = digests
            .iter()
            .flat_map(|hex| {
                let weight = u32::from_str_radix(&hex[..6], 16).expect("hex") as f32;
                (weight / (1 << 23) as f32 - 1.0).to_le_bytes()
            })
            .collect();
        let sevens = vec![7; 100_000];
        for (bytes, encoding) in [
            (sevens.clone(), Encoding::Zstd),
            (b"x".to_vec(), Encoding::Raw),
            (digits, Encoding::Zstd),
            (weights.clone(), Encoding::Raw),
            // What its middle is like, the chunk is taken to be.
            ([&sevens[..], &weights, &sevens].concat(), Encoding::Raw),
        ] {
            let written = encode(bytes.clone().into());
            assert_eq!(written.encoding, encoding);
            assert_eq!(decode(ChunkId::of(&bytes), &written).expect("ours"), bytes);
        }
    }

    #[test]
    fn bombs_are_not_unpacked() {
        let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 19).expect("compresses");
        assert!(bomb.len() < 10_000);
        let id = ChunkId {
            digest: Digest::of(b"abc"),
            size: 3,
        };
        let error = decode(id, &stored(Encoding::Zstd, 3, bomb.clone())).expect_err("bomb");
        assert!(
            error.contains("cannot be decompressed to 3 bytes"),
            "{error}"
        );
        let huge = ChunkId {
            size: 64 << 20,
            ..id
        };
        let error = decode(huge, &stored(Encoding::Zstd, 64 << 20, bomb)).expect_err("bomb");
        assert!(error.contains("1 to"), "{error}");
    }

    #[test]
    fn bytes_of_another_digest_are_refused_however_they_are_written() {
        let id = ChunkId::of(b"abc");
        let packed = |bytes: &[u8]| zstd::bulk::compress(bytes, 1).expect("compresses");
        for wrong in [
            stored(Encoding::Raw, 3, b"abd".to_vec()),
            stored(Encoding::Raw, 3, b"abcd".to_vec()),
            stored(Encoding::Raw, 4, b"abc".to_vec()),
            stored(Encoding::Raw, 3, Vec::new()),
            stored(Encoding::Zstd, 3, packed(b"abd")),
            stored(Encoding::Zstd, 3, packed(b"ab")),
            // The digest of the compressed bytes names nothing.
            stored(Encoding::Raw, packed(b"abc").len() as u64, packed(b"abc")),
            stored(Encoding::Zstd, 3, b"abc".to_vec()),
            stored(Encoding::Zstd, 3, Vec::new()),
        ] {
            assert!(decode(id, &wrong).is_err(), "{wrong:?}");
        }
    }

    proptest! {
        /// Of any bytes nothing comes but the chunk that was asked for.
        #[test]
        fn no_bytes_unpack_to_another_chunk(
            data in prop::collection::vec(any::<u8>(), 0..200), size in 0..300_u64, packed in any::<bool>(),
        ) {
            let encoding = if packed { Encoding::Zstd } else { Encoding::Raw };
            let id = ChunkId { digest: Digest::of(&data), size };
            if let Ok(bytes) = decode(id, &stored(encoding, size, data)) {
                prop_assert_eq!(ChunkId::of(&bytes), id);
            }
        }

        #[test]
        fn a_damaged_frame_unpacks_to_its_chunk_or_not_at_all(
            seed in any::<u8>(), place in 0..4000_usize, put in any::<u8>(), keep in 0..5000_usize,
        ) {
            let bytes: Vec<u8> = (0..4000_u32).map(|i| (i / 7) as u8 ^ seed).collect();
            let mut data = zstd::bulk::compress(&bytes, 1).expect("compresses");
            let place = place % data.len();
            data[place] = put;
            data.truncate(keep);
            let id = ChunkId::of(&bytes);
            if let Ok(unpacked) = decode(id, &stored(Encoding::Zstd, id.size, data)) {
                prop_assert!(unpacked == bytes);
            }
        }
    }
}
