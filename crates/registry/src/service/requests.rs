//! Fields of requests, checked.

use espalier_proto::v1 as pb;

use crate::chunks::{Encoding, Stored};
use crate::rules::{check_request_id, check_shown};
use crate::{ChunkId, Digest, RegistryError};

/// Longest name of who does something, in bytes.
const MAX_ACTOR: usize = 256;

/// Longest reason of a change, in bytes.
const MAX_REASON: usize = 1024;

pub(super) fn digest(field: &str, text: &str) -> Result<Digest, RegistryError> {
    text.parse().map_err(|e| RegistryError::argument(field, e))
}

pub(crate) fn chunk_ids(ids: &[pb::ChunkId], most: usize) -> Result<Vec<ChunkId>, RegistryError> {
    check_count("chunks", ids.len(), most)?;
    ids.iter()
        .enumerate()
        .map(|(i, id)| chunk_id(&format!("chunks[{i}]"), id))
        .collect()
}

pub(super) fn chunks(
    chunks: Vec<pb::Chunk>,
    most: usize,
) -> Result<Vec<(ChunkId, Stored)>, RegistryError> {
    check_count("chunks", chunks.len(), most)?;
    let each = |(i, chunk): (usize, pb::Chunk)| {
        let field = format!("chunks[{i}].id");
        let id = chunk
            .id
            .as_ref()
            .ok_or_else(|| RegistryError::argument(&field, "is missing"))?;
        let id = chunk_id(&field, id)?;
        let encoding = match pb::Encoding::try_from(chunk.encoding) {
            Ok(pb::Encoding::Unspecified) => Encoding::Raw,
            Ok(pb::Encoding::Zstd) => Encoding::Zstd,
            Err(e) => return Err(RegistryError::argument(format!("chunks[{i}].encoding"), e)),
        };
        if chunk.data.len() as u64 > id.size {
            let problem = format!(
                "{} bytes are more than id.size {}",
                chunk.data.len(),
                id.size
            );
            return Err(RegistryError::argument(
                format!("chunks[{i}].data"),
                problem,
            ));
        }
        let stored = Stored {
            encoding,
            size: id.size,
            data: chunk.data,
        };
        Ok((id, stored))
    };
    chunks.into_iter().enumerate().map(each).collect()
}

fn chunk_id(field: &str, id: &pb::ChunkId) -> Result<ChunkId, RegistryError> {
    let most = crate::MAX_CHUNK as u64;
    if id.size == 0 || id.size > most {
        let problem = format!("is {}, not 1 to {most}", id.size);
        return Err(RegistryError::argument(format!("{field}.size"), problem));
    }
    Ok(ChunkId {
        digest: digest(&format!("{field}.digest"), &id.digest)?,
        size: id.size,
    })
}

pub(super) fn check_count(field: &str, count: usize, most: usize) -> Result<(), RegistryError> {
    if count > most {
        let problem = format!("at most {most}, not {count}");
        return Err(RegistryError::argument(field, problem));
    }
    Ok(())
}

/// `None` when no lease is named.
pub(crate) fn lease(lease: &str) -> Result<Option<&str>, RegistryError> {
    if lease.is_empty() {
        return Ok(None);
    }
    check_request_id(lease).map_err(|problem| RegistryError::argument("lease", problem))?;
    Ok(Some(lease))
}

pub(super) fn check_words(reason: &str, actor: &str) -> Result<(), RegistryError> {
    for (field, text, most) in [("reason", reason, MAX_REASON), ("actor", actor, MAX_ACTOR)] {
        check_shown(text, most).map_err(|problem| RegistryError::argument(field, problem))?;
    }
    Ok(())
}
