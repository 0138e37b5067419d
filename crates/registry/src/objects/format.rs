//! A chunk as it lies in a file, and in a bucket: 12 bytes (`ESPC`, the encoding: 0 raw or 1 zstd, three
//! zeros, the chunk's size as u32 in little endian) and the data.

use std::io::{self, ErrorKind};

use prost::bytes::Bytes;

use super::Head;
use crate::chunks::{Encoding, Stored};
use crate::{Digest, RegistryError};

const MAGIC: [u8; 4] = *b"ESPC";

/// Bytes before the data.
pub(crate) const HEADER: usize = 12;

/// What comes before the data.
pub(super) fn header(object: &Stored) -> io::Result<[u8; HEADER]> {
    let size = u32::try_from(object.size).map_err(|_| ErrorKind::InvalidInput)?;
    let mut header = [0; HEADER];
    header[..4].copy_from_slice(&MAGIC);
    header[4] = match object.encoding {
        Encoding::Raw => 0,
        Encoding::Zstd => 1,
    };
    header[8..].copy_from_slice(&size.to_le_bytes());
    Ok(header)
}

fn parse(header: &[u8]) -> Option<(Encoding, u64)> {
    let (magic, rest) = header.split_first_chunk::<4>()?;
    let ([encoding, 0, 0, 0], size) = rest.split_first_chunk::<4>()? else {
        return None;
    };
    let encoding = match encoding {
        0 => Encoding::Raw,
        1 => Encoding::Zstd,
        _ => return None,
    };
    let size = u32::from_le_bytes(size.first_chunk().copied()?);
    (*magic == MAGIC).then_some((encoding, u64::from(size)))
}

/// What the first [`HEADER`] bytes of `stored` bytes say; `None` when they begin no chunk: writing the
/// chunk again restores it. Cut short is found without reading all when nothing was compressed.
pub(super) fn head(begin: &[u8], stored: u64) -> Option<Head> {
    let (encoding, size) = parse(begin)?;
    let whole = encoding == Encoding::Zstd || stored == HEADER as u64 + size;
    whole.then_some(Head { size, stored })
}

/// The chunk in these bytes.
pub(super) fn read(digest: Digest, bytes: Bytes) -> Result<Stored, RegistryError> {
    let header = bytes.get(..HEADER).and_then(parse);
    let (encoding, size) = header.ok_or_else(|| RegistryError::Damaged {
        digest,
        problem: "it does not begin as it should".to_owned(),
    })?;
    Ok(Stored {
        encoding,
        size,
        data: bytes.slice(HEADER..),
    })
}
