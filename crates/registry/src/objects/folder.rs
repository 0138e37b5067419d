//! Objects as files:
//!
//! ```text
//! chunks/a/<64 hex digits>   whole and verified when it got this name; a is the first digit
//! staging/<a name>           being written; emptied when the folder is opened
//! damaged/<64 hex digits>    found not to have its digest
//! ```
//!
//! Sixteen folders, so that a batch of chunks costs few fsyncs of folders.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tonic::async_trait;

use super::format::{self, HEADER, header};
use super::{Grown, Head, Listed, Objects, Page};
use crate::chunks::Stored;
use crate::failpoint::reach;
use crate::files::{blocking, sync_dir};
use crate::{Digest, RegistryError};

/// Bytes that are left free on the disk, for the store.
const RESERVE: u64 = 64 << 20;

/// Files of a batch that are fsynced at once: the disk's journal takes them together.
const SYNCS: usize = 8;

/// Objects in a folder. No two processes may share it.
#[derive(Clone, Debug)]
pub(crate) struct Folder(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    /// Numbers the files in staging.
    staged: AtomicU64,
}

impl Folder {
    /// Opens the folder, making it if it is not there.
    pub(crate) async fn open(root: &Path) -> Result<Self, RegistryError> {
        let root = root.to_owned();
        blocking(move || {
            let staging = root.join("staging");
            let damaged = root.join("damaged");
            let shards = (0..16).map(|digit| root.join(format!("chunks/{digit:x}")));
            for dir in shards.chain([staging.clone(), damaged]) {
                fs::create_dir_all(&dir).map_err(failed("make", &dir))?;
            }
            for dir in [&root.join("chunks"), &root] {
                sync_dir(dir).map_err(failed("sync", dir))?;
            }
            for entry in fs::read_dir(&staging).map_err(failed("read", &staging))? {
                let path = entry.map_err(failed("read", &staging))?.path();
                fs::remove_file(&path).map_err(failed("remove", &path))?;
            }
            Ok(Self(Arc::new(Inner {
                root,
                staged: AtomicU64::new(0),
            })))
        })
        .await
    }

    fn shard(&self, digest: Digest) -> PathBuf {
        self.0.root.join("chunks").join(&digest.hex()[..1])
    }

    fn path(&self, digest: Digest) -> PathBuf {
        self.shard(digest).join(digest.hex())
    }

    fn put_all(&self, objects: &[(Digest, Stored)]) -> Result<Grown, RegistryError> {
        let mut staged = Vec::with_capacity(objects.len());
        for (_, object) in objects {
            staged.push(self.stage(object)?);
        }
        reach("chunks staged");
        sync_all(&staged)?;
        reach("chunks synced");
        let mut grown = Grown::default();
        let mut shards = BTreeSet::new();
        for ((digest, object), (from, _)) in objects.iter().zip(&staged) {
            let to = self.path(*digest);
            let before = fs::metadata(&to).ok().map(|m| m.len());
            fs::rename(from, &to).map_err(failed("rename to", &to))?;
            reach("chunk renamed");
            grown.objects += u64::from(before.is_none());
            grown.bytes += (HEADER + object.data.len()) as i64 - before.unwrap_or(0) as i64;
            shards.insert(self.shard(*digest));
        }
        for shard in shards {
            sync_dir(&shard).map_err(failed("sync", &shard))?;
        }
        reach("folders synced");
        Ok(grown)
    }

    fn stage(&self, object: &Stored) -> Result<(PathBuf, File), RegistryError> {
        let number = self.0.staged.fetch_add(1, Ordering::Relaxed);
        let path = self.0.root.join("staging").join(number.to_string());
        let mut file = File::create(&path).map_err(failed("make", &path))?;
        let written = header(object).and_then(|header| {
            file.write_all(&header)?;
            file.write_all(&object.data)
        });
        match written {
            Ok(()) => Ok((path, file)),
            Err(e) if e.kind() == ErrorKind::StorageFull => Err(RegistryError::NoSpace {
                needed: object.data.len() as u64,
                available: 0,
            }),
            Err(e) => Err(failed("write", &path)(e)),
        }
    }
}

fn sync_all(staged: &[(PathBuf, File)]) -> Result<(), RegistryError> {
    let each = |(path, file): &(PathBuf, File)| file.sync_all().map_err(failed("sync", path));
    std::thread::scope(|scope| {
        let threads: Vec<_> = staged
            .chunks(staged.len().div_ceil(SYNCS).max(1))
            .skip(1)
            .map(|files| scope.spawn(move || files.iter().try_for_each(each)))
            .collect();
        let first = staged.len().div_ceil(SYNCS).min(staged.len());
        staged[..first].iter().try_for_each(each)?;
        threads.into_iter().try_for_each(|thread| {
            thread
                .join()
                .unwrap_or_else(|p| std::panic::resume_unwind(p))
        })
    })
}

fn failed(action: &str, path: &Path) -> impl FnOnce(io::Error) -> RegistryError {
    RegistryError::io(format!("{action} {}", path.display()))
}

/// `None` when there is no such file.
fn open(path: &Path) -> Result<Option<File>, RegistryError> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(failed("open", path)(e)),
    }
}

#[async_trait]
impl Objects for Folder {
    async fn put(&self, objects: Vec<(Digest, Stored)>) -> Result<Grown, RegistryError> {
        let folder = self.clone();
        blocking(move || folder.put_all(&objects)).await
    }

    async fn get(&self, digest: Digest) -> Result<Option<Stored>, RegistryError> {
        let path = self.path(digest);
        blocking(move || {
            let Some(mut file) = open(&path)? else {
                return Ok(None);
            };
            let damaged = |problem: String| RegistryError::Damaged { digest, problem };
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)
                .map_err(|e| damaged(format!("it cannot be read: {e}")))?;
            format::read(digest, bytes.into()).map(Some)
        })
        .await
    }

    async fn head(&self, digests: Vec<Digest>) -> Result<Vec<Option<Head>>, RegistryError> {
        let folder = self.clone();
        blocking(move || {
            let head = |digest: Digest| {
                let path = folder.path(digest);
                let Some(mut file) = open(&path)? else {
                    return Ok(None);
                };
                let stored = file.metadata().map_err(failed("look at", &path))?.len();
                let mut header = [0; HEADER];
                // A file too short for its header is none.
                let whole = file.read_exact(&mut header).is_ok();
                Ok(whole.then(|| format::head(&header, stored)).flatten())
            };
            digests.into_iter().map(head).collect()
        })
        .await
    }

    async fn delete(&self, digests: Vec<Digest>) -> Result<u64, RegistryError> {
        let folder = self.clone();
        blocking(move || {
            let mut freed = 0;
            let mut shards = BTreeSet::new();
            for digest in digests {
                let path = folder.path(digest);
                let size = fs::metadata(&path).map_or(0, |m| m.len());
                match fs::remove_file(&path) {
                    Ok(()) => freed += size,
                    Err(e) if e.kind() == ErrorKind::NotFound => {}
                    Err(e) => return Err(failed("remove", &path)(e)),
                }
                reach("chunk removed");
                shards.insert(folder.shard(digest));
            }
            for shard in shards {
                sync_dir(&shard).map_err(failed("sync", &shard))?;
            }
            Ok(freed)
        })
        .await
    }

    async fn list(&self, after: Option<Page>) -> Result<Listed, RegistryError> {
        let digit = match after {
            Some(Page::Shard(digit)) => digit,
            _ => 0,
        };
        let shard = self.0.root.join(format!("chunks/{digit:x}"));
        blocking(move || {
            let mut objects = Vec::new();
            for entry in fs::read_dir(&shard).map_err(failed("read", &shard))? {
                let entry = entry.map_err(failed("read", &shard))?;
                let name = entry.file_name();
                let digest = format!("sha256:{}", name.to_string_lossy()).parse();
                // What has no digest for a name was not put here by this program.
                let Ok(digest) = digest else { continue };
                match entry.metadata() {
                    Ok(metadata) => objects.push((digest, metadata.len())),
                    Err(e) if e.kind() == ErrorKind::NotFound => {}
                    Err(e) => return Err(failed("look at", &entry.path())(e)),
                }
            }
            objects.sort_unstable();
            Ok(Listed {
                objects,
                next: (digit < 15).then_some(Page::Shard(digit + 1)),
            })
        })
        .await
    }

    async fn set_aside(&self, digest: Digest) -> Result<u64, RegistryError> {
        let from = self.path(digest);
        let to = self.0.root.join("damaged").join(digest.hex());
        let shard = self.shard(digest);
        blocking(move || {
            let size = fs::metadata(&from).map_or(0, |m| m.len());
            match fs::rename(&from, &to) {
                Ok(()) => {
                    sync_dir(&shard).map_err(failed("sync", &shard))?;
                    Ok(size)
                }
                Err(e) if e.kind() == ErrorKind::NotFound => Ok(0),
                Err(e) => Err(failed("rename", &from)(e)),
            }
        })
        .await
    }

    async fn available(&self) -> Result<Option<u64>, RegistryError> {
        let root = self.0.root.clone();
        blocking(move || {
            let disk = rustix::fs::statvfs(&root)
                .map_err(|e| failed("look at the disk of", &root)(e.into()))?;
            let available = disk.f_bavail.saturating_mul(disk.f_frsize);
            Ok(Some(available.saturating_sub(RESERVE)))
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ChunkId;
    use crate::chunks::Encoding;
    use crate::objects::conformance;

    #[tokio::test]
    async fn a_folder_keeps_objects() {
        let dir = tempfile::tempdir().expect("tempdir");
        let damage = |digest: Digest, bytes: &[u8]| {
            let hex = digest.hex();
            let path = dir.path().join("chunks").join(&hex[..1]).join(hex);
            fs::write(path, bytes).expect("writes");
        };
        let open = async || Folder::open(dir.path()).await.expect("opens");
        conformance::keeps(open, async |digest, bytes| damage(digest, bytes)).await;
        let damaged = fs::read_dir(dir.path().join("damaged")).expect("reads");
        assert!(damaged.count() > 0, "what was damaged is kept aside");
    }

    #[tokio::test]
    async fn what_was_staged_is_gone_after_a_restart() {
        let dir = tempfile::tempdir().expect("tempdir");
        let folder = Folder::open(dir.path()).await.expect("opens");
        let stored = Stored {
            encoding: Encoding::Raw,
            size: 3,
            data: b"one"[..].into(),
        };
        let digest = ChunkId::of(b"one").digest;
        folder.put(vec![(digest, stored)]).await.expect("puts");
        fs::write(dir.path().join("staging/7"), "half").expect("writes");
        let folder = Folder::open(dir.path()).await.expect("opens");
        let mut staged = fs::read_dir(dir.path().join("staging")).expect("reads");
        assert!(staged.next().is_none());
        assert!(folder.get(digest).await.expect("reads").is_some());
    }
}
