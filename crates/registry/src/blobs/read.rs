use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::pin::Pin;
use std::task::{Context, Poll};

use espalier_proto::BLOB_CHUNK;
use prost::bytes::Bytes;
use sha2::{Digest as _, Sha256};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinHandle;
use tokio_stream::Stream;

use super::Blobs;
use crate::files::{blocking, hash_prefix};
use crate::{Digest, RegistryError};

/// Reads a blob and verifies it: its last piece is given only if the whole has the digest.
struct Reader {
    blobs: Blobs,
    digest: Digest,
    file: File,
    hasher: Sha256,
    left: u64,
    verified: bool,
}

impl Reader {
    fn open(blobs: Blobs, digest: Digest, offset: u64) -> Result<Self, RegistryError> {
        let path = blobs.blob(digest);
        let failed = |what: &str| RegistryError::io(format!("{what} {}", path.display()));
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == ErrorKind::NotFound && blobs.damaged(digest).exists() => {
                return Err(RegistryError::Damaged {
                    digest,
                    problem: "it was put aside".to_owned(),
                });
            }
            Err(e) if e.kind() == ErrorKind::NotFound => {
                return Err(RegistryError::NotFound {
                    what: "blob",
                    name: digest.to_string(),
                });
            }
            Err(e) => return Err(failed("open")(e)),
        };
        let size = file.metadata().map_err(failed("look at"))?.len();
        if offset > size {
            return Err(RegistryError::Offset {
                digest,
                offset,
                committed: size,
            });
        }
        // The digest is of the whole: what is skipped is hashed all the same.
        let hasher = hash_prefix(&mut file, offset).map_err(failed("read"))?;
        Ok(Self {
            blobs,
            digest,
            file,
            hasher,
            left: size - offset,
            verified: false,
        })
    }

    fn next(&mut self) -> Result<Option<Bytes>, RegistryError> {
        if self.verified {
            return Ok(None);
        }
        let wanted = BLOB_CHUNK.min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let mut data = vec![0; wanted];
        if let Err(e) = self.file.read_exact(&mut data) {
            return Err(RegistryError::Damaged {
                digest: self.digest,
                problem: format!("it cannot be read: {e}"),
            });
        }
        self.hasher.update(&data);
        self.left -= wanted as u64;
        if self.left == 0 {
            self.verify()?;
        }
        Ok((!data.is_empty()).then(|| data.into()))
    }

    fn verify(&mut self) -> Result<(), RegistryError> {
        let found = Digest::finish(std::mem::take(&mut self.hasher));
        if found != self.digest {
            self.blobs.put_aside(self.digest)?;
            return Err(RegistryError::Damaged {
                digest: self.digest,
                problem: format!("its bytes have digest {found}"),
            });
        }
        self.verified = true;
        Ok(())
    }
}

/// The pieces of a blob, each read when the one before was taken. Ends with an error, never early,
/// when the blob is damaged.
pub(crate) struct BlobStream {
    state: State,
    _permit: OwnedSemaphorePermit,
}

type Piece = Result<Option<Bytes>, RegistryError>;

enum State {
    Reading(JoinHandle<(Reader, Piece)>),
    Ended,
}

impl BlobStream {
    /// Opens a blob at an offset; the permit is given back when the stream is dropped.
    pub(crate) async fn open(
        blobs: &Blobs,
        digest: Digest,
        offset: u64,
        permit: OwnedSemaphorePermit,
    ) -> Result<Self, RegistryError> {
        let blobs = blobs.clone();
        let reader = blocking(move || Reader::open(blobs, digest, offset)).await?;
        Ok(Self {
            state: State::reading(reader),
            _permit: permit,
        })
    }
}

impl State {
    fn reading(mut reader: Reader) -> Self {
        Self::Reading(tokio::task::spawn_blocking(move || {
            let piece = reader.next();
            (reader, piece)
        }))
    }
}

impl Stream for BlobStream {
    type Item = Result<Bytes, RegistryError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let State::Reading(handle) = &mut self.state else {
            return Poll::Ready(None);
        };
        let Poll::Ready(done) = Pin::new(handle).poll(context) else {
            return Poll::Pending;
        };
        self.state = State::Ended;
        match done {
            Ok((reader, Ok(Some(data)))) => {
                self.state = State::reading(reader);
                Poll::Ready(Some(Ok(data)))
            }
            Ok((_, Ok(None))) => Poll::Ready(None),
            Ok((_, Err(error))) => Poll::Ready(Some(Err(error))),
            Err(e) => Poll::Ready(Some(Err(RegistryError::io("read a blob")(
                std::io::Error::other(e),
            )))),
        }
    }
}
