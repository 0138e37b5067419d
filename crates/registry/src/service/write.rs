use std::time::Duration;

use espalier_proto::BLOB_CHUNK;
use espalier_proto::v1::WriteBlobRequest;
use tokio_stream::StreamExt as _;
use tonic::{Status, Streaming};

use super::blob_id;
use crate::blobs::{Begun, Upload};
use crate::{Blobs, RegistryError};

/// Longest silence of a client in the middle of an upload.
const STALL: Duration = Duration::from_secs(30);

/// Receives an upload; returns the bytes of it that are durable.
///
/// A client that goes away looks like the clean end of its stream: only a message with `finish` ends
/// an upload, and any other end leaves it to be gone on with.
pub(super) async fn receive(
    blobs: &Blobs,
    mut stream: Streaming<WriteBlobRequest>,
) -> Result<u64, Status> {
    let Some(mut message) = next(&mut stream).await? else {
        return Err(RegistryError::argument("header", "is missing").into());
    };
    let header = message
        .header
        .take()
        .ok_or_else(|| RegistryError::argument("header", "is missing"))?;
    let id = blob_id("header.blob", header.blob.as_ref())?;
    let mut upload = match Upload::begin(blobs, id, header.offset).await? {
        Begun::Complete => return Ok(id.size),
        Begun::Upload(upload) => upload,
    };
    loop {
        if message.header.is_some() {
            return Err(RegistryError::argument("header", "belongs in the first message").into());
        }
        if message.data.len() > BLOB_CHUNK {
            let problem = format!("at most {BLOB_CHUNK} bytes, not {}", message.data.len());
            return Err(RegistryError::argument("data", problem).into());
        }
        if !message.data.is_empty() {
            upload = upload.write(message.data).await?;
        }
        if message.finish {
            return Ok(upload.finish().await?);
        }
        match next(&mut stream).await {
            Ok(Some(following)) => message = following,
            Ok(None) => return Ok(upload.suspend().await?),
            Err(status) => {
                upload.suspend().await?;
                return Err(status);
            }
        }
    }
}

async fn next(
    stream: &mut Streaming<WriteBlobRequest>,
) -> Result<Option<WriteBlobRequest>, Status> {
    match tokio::time::timeout(STALL, stream.next()).await {
        Ok(message) => message.transpose(),
        Err(_) => Err(RegistryError::Stalled(STALL).into()),
    }
}
