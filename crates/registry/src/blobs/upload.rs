use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::Path;

use prost::bytes::Bytes;
use sha2::{Digest as _, Sha256};

use super::{BlobId, Blobs, MAX_BLOB, RESERVE};
use crate::files::{blocking, hash_prefix, sync_dir};
use crate::{Digest, RegistryError};

/// An upload under way. Dropped, it keeps what was written, and another can go on from there.
pub(crate) struct Upload {
    claim: Claim,
    id: BlobId,
    file: File,
    hasher: Sha256,
    written: u64,
}

/// What the beginning of an upload comes to.
pub(crate) enum Begun {
    /// The blob is here already.
    Complete,
    /// Send the rest.
    Upload(Box<Upload>),
}

/// The right to write a blob's part.
struct Claim {
    blobs: Blobs,
    digest: Digest,
}

impl Claim {
    fn take(blobs: &Blobs, digest: Digest) -> Result<Self, RegistryError> {
        if !blobs.uploading().insert(digest) {
            return Err(RegistryError::Uploading(digest));
        }
        Ok(Self {
            blobs: blobs.clone(),
            digest,
        })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.blobs.uploading().remove(&self.digest);
    }
}

impl Upload {
    /// Begins the upload of a blob, or goes on with one at `offset`.
    pub(crate) async fn begin(
        blobs: &Blobs,
        id: BlobId,
        offset: u64,
    ) -> Result<Begun, RegistryError> {
        let claim = Claim::take(blobs, id.digest)?;
        blocking(move || {
            if claim.blobs.is_complete(id)? {
                return Ok(Begun::Complete);
            }
            Self::open(claim, id, offset).map(|upload| Begun::Upload(Box::new(upload)))
        })
        .await
    }

    fn open(claim: Claim, id: BlobId, offset: u64) -> Result<Self, RegistryError> {
        if id.size > MAX_BLOB {
            return Err(RegistryError::argument(
                "header.blob.size",
                format!("{} bytes are more than {MAX_BLOB}", id.size),
            ));
        }
        let path = claim.blobs.part(id.digest);
        let failed = |what: &str| RegistryError::io(format!("{what} {}", path.display()));
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(&path)
            .map_err(failed("open"))?;
        let mut written = file.metadata().map_err(failed("look at"))?.len();
        if written > id.size {
            file.set_len(0).map_err(failed("truncate"))?;
            written = 0;
        }
        if offset != written {
            return Err(RegistryError::Offset {
                digest: id.digest,
                offset,
                committed: written,
            });
        }
        check_space(&path, id.size - written)?;
        let hasher = hash_prefix(&mut file, written).map_err(failed("read"))?;
        Ok(Self {
            claim,
            id,
            file,
            hasher,
            written,
        })
    }

    /// Appends bytes.
    pub(crate) async fn write(self: Box<Self>, data: Bytes) -> Result<Box<Self>, RegistryError> {
        let mut upload = self;
        blocking(move || {
            let after = upload.written + data.len() as u64;
            if after > upload.id.size {
                return Err(RegistryError::argument(
                    "data",
                    format!(
                        "{after} bytes are more than header.blob.size {}",
                        upload.id.size
                    ),
                ));
            }
            upload.file.write_all(&data).map_err(|source| {
                if source.kind() == std::io::ErrorKind::StorageFull {
                    RegistryError::NoSpace {
                        needed: upload.id.size - upload.written,
                        available: 0,
                    }
                } else {
                    RegistryError::io(format!("write blob {}", upload.id.digest))(source)
                }
            })?;
            upload.hasher.update(&data);
            upload.written = after;
            Ok(upload)
        })
        .await
    }

    /// Makes what arrived durable, for another upload to go on from; returns how much that is.
    pub(crate) async fn suspend(self: Box<Self>) -> Result<u64, RegistryError> {
        blocking(move || {
            self.file
                .sync_data()
                .map_err(RegistryError::io(format!("sync blob {}", self.id.digest)))?;
            Ok(self.written)
        })
        .await
    }

    /// Verifies the blob and puts it in its place, durably; returns its size.
    pub(crate) async fn finish(self: Box<Self>) -> Result<u64, RegistryError> {
        blocking(move || self.put_in_place()).await
    }

    fn put_in_place(self) -> Result<u64, RegistryError> {
        let Self {
            claim,
            id,
            file,
            hasher,
            written,
        } = self;
        let part = claim.blobs.part(id.digest);
        let failed = |what: &str| RegistryError::io(format!("{what} {}", part.display()));
        if written != id.size {
            file.sync_data().map_err(failed("sync"))?;
            return Err(RegistryError::argument(
                "finish",
                format!("{written} of {} bytes arrived", id.size),
            ));
        }
        let found = Digest::finish(hasher);
        if found != id.digest {
            fs::remove_file(&part).map_err(failed("remove"))?;
            return Err(RegistryError::Mismatch {
                digest: id.digest,
                found,
            });
        }
        file.sync_all().map_err(failed("sync"))?;
        let blob = claim.blobs.blob(id.digest);
        let shard = claim.blobs.shard(id.digest);
        fs::create_dir_all(&shard).map_err(failed("make the folder of"))?;
        fs::rename(&part, &blob).map_err(failed("rename"))?;
        sync_dir(&shard).map_err(failed("sync the folder of"))?;
        sync_dir(&claim.blobs.0.root.join("sha256")).map_err(failed("sync the folders of"))?;
        Ok(written)
    }
}

/// Checks that the disk takes `bytes` more and keeps its reserve.
pub(super) fn check_space(path: &Path, bytes: u64) -> Result<(), RegistryError> {
    let disk = rustix::fs::statvfs(path).map_err(|e| {
        RegistryError::io(format!("look at the disk of {}", path.display()))(e.into())
    })?;
    let available = disk.f_bavail.saturating_mul(disk.f_frsize);
    let needed = bytes.saturating_add(RESERVE);
    if needed > available {
        return Err(RegistryError::NoSpace { needed, available });
    }
    Ok(())
}
