//! Blobs in a folder:
//!
//! ```text
//! sha256/ab/<64 hex digits>    whole and verified when it got this name
//! uploads/<64 hex digits>.part what arrived of an upload
//! damaged/<64 hex digits>      found not to have its digest; kept for whoever wants to look
//! ```

mod read;
mod upload;

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use crate::files::blocking;
use crate::{Digest, RegistryError};

pub(crate) use read::BlobStream;
pub(crate) use upload::{Begun, Upload};

/// Largest blob, in bytes.
pub(crate) const MAX_BLOB: u64 = 64 << 30;

/// Bytes that uploads leave free on the disk, for the store.
const RESERVE: u64 = 64 << 20;

/// Age at which an upload that nobody goes on with is thrown away.
const ABANDONED: Duration = Duration::from_secs(7 * 24 * 3600);

/// Blobs in a folder. Clones share it; no two processes may.
#[derive(Clone, Debug)]
pub struct Blobs(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    /// Blobs that are being uploaded: one writer each.
    uploading: Mutex<HashSet<Digest>>,
}

/// A blob's name and size, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct BlobId {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

/// How far an upload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WriteStatus {
    /// Bytes that are durable.
    pub(crate) committed: u64,
    pub(crate) complete: bool,
}

impl Blobs {
    /// Opens the folder, making it if it is not there, and throws abandoned uploads away.
    ///
    /// # Errors
    /// [`RegistryError::Io`].
    pub async fn open(root: impl AsRef<Path>) -> Result<Self, RegistryError> {
        let blobs = Self(Arc::new(Inner {
            root: root.as_ref().to_owned(),
            uploading: Mutex::default(),
        }));
        let opened = blobs.clone();
        blocking(move || {
            for dir in ["sha256", "uploads", "damaged"] {
                let dir = opened.0.root.join(dir);
                fs::create_dir_all(&dir)
                    .map_err(RegistryError::io(format!("make {}", dir.display())))?;
            }
            opened.sweep_abandoned(SystemTime::now())?;
            Ok(opened)
        })
        .await
    }

    /// Those that are not here whole.
    pub(crate) async fn missing(&self, ids: Vec<BlobId>) -> Result<Vec<BlobId>, RegistryError> {
        let blobs = self.clone();
        blocking(move || {
            let mut missing = Vec::new();
            for id in ids {
                if !blobs.is_complete(id)? {
                    missing.push(id);
                }
            }
            Ok(missing)
        })
        .await
    }

    /// How far the upload of a blob is; makes what it counts durable first.
    pub(crate) async fn status(&self, id: BlobId) -> Result<WriteStatus, RegistryError> {
        let blobs = self.clone();
        blocking(move || {
            if blobs.is_complete(id)? {
                return Ok(WriteStatus {
                    committed: id.size,
                    complete: true,
                });
            }
            let path = blobs.part(id.digest);
            let committed = match File::open(&path) {
                Ok(file) => {
                    let committed = file
                        .metadata()
                        .and_then(|m| file.sync_data().map(|()| m.len()))
                        .map_err(RegistryError::io(format!("sync {}", path.display())))?;
                    // More than the whole is of no use: the upload will start over.
                    if committed > id.size { 0 } else { committed }
                }
                Err(e) if e.kind() == ErrorKind::NotFound => 0,
                Err(e) => return Err(RegistryError::io(format!("open {}", path.display()))(e)),
            };
            Ok(WriteStatus {
                committed,
                complete: false,
            })
        })
        .await
    }

    fn is_complete(&self, id: BlobId) -> Result<bool, RegistryError> {
        let path = self.blob(id.digest);
        match fs::metadata(&path) {
            Ok(metadata) => Ok(metadata.len() == id.size),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
            Err(e) => Err(RegistryError::io(format!("look at {}", path.display()))(e)),
        }
    }

    /// Puts a blob aside whose bytes were found to be wrong, so that it counts as missing and a push
    /// brings it back.
    fn put_aside(&self, digest: Digest) -> Result<(), RegistryError> {
        tracing::error!(%digest, "blob is damaged; put aside");
        let (from, to) = (self.blob(digest), self.damaged(digest));
        match fs::rename(&from, &to) {
            Err(e) if e.kind() != ErrorKind::NotFound => {
                Err(RegistryError::io(format!("rename {}", from.display()))(e))
            }
            _ => Ok(()),
        }
    }

    fn sweep_abandoned(&self, now: SystemTime) -> Result<(), RegistryError> {
        let dir = self.0.root.join("uploads");
        let failed = || RegistryError::io(format!("sweep {}", dir.display()));
        for entry in fs::read_dir(&dir).map_err(failed())? {
            let entry = entry.map_err(failed())?;
            let modified = entry.metadata().and_then(|m| m.modified());
            let age = modified.map(|m| now.duration_since(m).unwrap_or_default());
            if age.map_err(failed())? > ABANDONED {
                fs::remove_file(entry.path()).map_err(failed())?;
                tracing::info!(upload = ?entry.file_name(), "abandoned upload removed");
            }
        }
        Ok(())
    }

    fn blob(&self, digest: Digest) -> PathBuf {
        self.shard(digest).join(digest.hex())
    }

    fn shard(&self, digest: Digest) -> PathBuf {
        self.0.root.join("sha256").join(&digest.hex()[..2])
    }

    fn part(&self, digest: Digest) -> PathBuf {
        let name = format!("{}.part", digest.hex());
        self.0.root.join("uploads").join(name)
    }

    fn damaged(&self, digest: Digest) -> PathBuf {
        self.0.root.join("damaged").join(digest.hex())
    }

    fn uploading(&self) -> MutexGuard<'_, HashSet<Digest>> {
        // Inserting and removing are one step each, whole whatever panicked elsewhere.
        self.0
            .uploading
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
