use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use espalier_proto::v1::{Chunk, Encoding, ReadChunksRequest, ReadChunksResponse};
use espalier_proto::{MAX_BATCH, MAX_CHUNK};
use prost::Message as _;
use prost::bytes::Bytes;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use tokio::task::JoinSet;
use tonic::Code;

use super::connection::{Connection, transfer_deadline, within};
use super::folder::{self, file_error, unusable};
use super::progress::{Moved, Progress};
use super::{ClientError, Found, joined};
use crate::chunks::{Encoding as How, Stored, decode};
use crate::failpoint::reach;
use crate::files::blocking;
use crate::{ChunkId, Manifest};

/// Batches under way at once.
const PARALLEL: usize = 4;

/// Bytes that a pull leaves free on the disk.
const RESERVE: u64 = 16 << 20;

/// Where the bytes of a chunk go: (number of the file, offset).
type Places = Vec<(usize, u64)>;

pub(super) async fn pull(
    connection: &Connection,
    found: &Found,
    lease: &str,
    dir: &Path,
    report: impl Fn(u64, u64) + Send + Sync + 'static,
) -> Result<Moved, ClientError> {
    let progress = Arc::new(Progress::new(report, found.manifest.size()));
    let target = dir.to_owned();
    let manifest = found.manifest.clone();
    let ready = blocking(move || {
        if folder::is_free(&target)? {
            return Ok(false);
        }
        match folder::difference(&target, &manifest)? {
            None => Ok(true),
            Some(difference) => Err(unusable(
                &target,
                format!(
                    "the folder is not empty and not this checkpoint ({difference}); choose another"
                ),
            )),
        }
    })
    .await?;
    if ready {
        let chunks: usize = found.manifest.files.iter().map(|f| f.chunks.len()).sum();
        progress.done(chunks as u64, found.manifest.size());
        return Ok(progress.result());
    }
    let partial = partial_of(dir)?;
    let lock = lock(&partial).await?;
    let pull = Pull {
        connection: connection.clone(),
        lease: lease.to_owned(),
        manifest: Arc::new(found.manifest.clone()),
        partial: partial.clone(),
        progress: Arc::clone(&progress),
    };
    pull.run().await?;
    let (manifest, dir) = (found.manifest.clone(), dir.to_owned());
    blocking(move || folder::put_in_place(&partial, &dir, &manifest)).await?;
    drop(lock);
    Ok(progress.result())
}

/// Where a folder is put together: beside it, so that one rename moves it.
fn partial_of(dir: &Path) -> Result<PathBuf, ClientError> {
    let Some(name) = dir.file_name() else {
        return Err(unusable(
            dir,
            "it has no name of its own; choose a folder to be made",
        ));
    };
    let mut name = name.to_owned();
    name.push(".partial");
    Ok(dir.with_file_name(name))
}

/// Makes the folder and keeps other pulls out of it. One that is a link leads to files of something
/// else, which a pull would take for its own and remove.
async fn lock(partial: &Path) -> Result<File, ClientError> {
    let partial = partial.to_owned();
    blocking(move || {
        fs::create_dir_all(&partial).map_err(file_error("make", &partial))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let lock = match rustix::fs::open(&partial, flags, Mode::empty()) {
            Ok(lock) => File::from(lock),
            Err(Errno::LOOP | Errno::NOTDIR) => {
                return Err(unusable(&partial, "it is a link; remove it"));
            }
            Err(e) => return Err(file_error("open", &partial)(e.into())),
        };
        lock.try_lock()
            .map_err(|_| unusable(&partial, "another pull is writing there; wait for it"))?;
        Ok(lock)
    })
    .await
}

/// A pull into the folder beside the target.
#[derive(Clone)]
struct Pull {
    connection: Connection,
    lease: String,
    manifest: Arc<Manifest>,
    partial: PathBuf,
    progress: Arc<Progress>,
}

impl Pull {
    async fn run(&self) -> Result<(), ClientError> {
        let pull = self.clone();
        let (files, wanted) = blocking(move || pull.prepare()).await?;
        let files = Arc::new(files);
        // Dropped on the first error, it aborts the rest.
        let mut under_way = JoinSet::new();
        for batch in batches(wanted) {
            while under_way.len() >= PARALLEL {
                if let Some(done) = under_way.join_next().await {
                    joined(done)?;
                }
            }
            let (pull, files) = (self.clone(), Arc::clone(&files));
            under_way.spawn(async move { pull.fetch(batch, files).await });
        }
        while let Some(done) = under_way.join_next().await {
            joined(done)?;
        }
        let paths = self.paths();
        blocking(move || {
            let sync =
                |(file, path): (&File, &PathBuf)| file.sync_all().map_err(file_error("sync", path));
            files.iter().zip(&paths).try_for_each(sync)
        })
        .await?;
        reach("files synced");
        Ok(())
    }

    fn paths(&self) -> Vec<PathBuf> {
        let files = self.manifest.files.iter();
        files.map(|file| self.partial.join(&file.path)).collect()
    }

    /// Makes the files in their sizes; says which chunks are not in their places yet.
    fn prepare(&self) -> Result<(Vec<File>, BTreeMap<ChunkId, Places>), ClientError> {
        // What is there may be of another checkpoint, or not even a plain file.
        let there = folder::walk(&self.partial)?;
        for path in &there {
            let belongs = self.manifest.files.iter().any(|file| file.path == *path);
            let path = self.partial.join(path);
            // With another name, elsewhere, it is somebody's file.
            let links = fs::metadata(&path)
                .map_err(file_error("read", &path))?
                .nlink();
            if !belongs || links > 1 {
                fs::remove_file(&path).map_err(file_error("remove", &path))?;
            }
        }
        let mut files = Vec::new();
        let mut wanted: BTreeMap<ChunkId, Places> = BTreeMap::new();
        for (number, (entry, path)) in self.manifest.files.iter().zip(self.paths()).enumerate() {
            let in_place = folder::chunks_in_place(&path, entry)?;
            files.push(open(&path, entry.size)?);
            let mut offset = 0;
            for (chunk, in_place) in entry.chunks.iter().zip(in_place) {
                if in_place {
                    self.progress.done(1, chunk.size);
                } else {
                    wanted.entry(*chunk).or_default().push((number, offset));
                }
                offset += chunk.size;
            }
        }
        let bytes = |(id, places): (&ChunkId, &Places)| id.size.saturating_mul(places.len() as u64);
        let needed = wanted.iter().map(bytes).fold(0, u64::saturating_add);
        let disk = rustix::fs::statvfs(&self.partial)
            .map_err(|e| file_error("look at the disk of", &self.partial)(e.into()))?;
        check_room(needed, disk.f_bavail.saturating_mul(disk.f_frsize))
            .map_err(|problem| unusable(&self.partial, problem))?;
        Ok((files, wanted))
    }

    /// Fetches a batch of chunks, verifies them and writes each to its places.
    async fn fetch(
        &self,
        batch: Vec<(ChunkId, Places)>,
        files: Arc<Vec<File>>,
    ) -> Result<(), ClientError> {
        let operation = format!("downloading `{}`", self.name(&batch[0].1));
        let answer = self.read(&batch, false, &operation).await?;
        let pull = self.clone();
        let written = batch.clone();
        let wrong = blocking(move || pull.place(&written, answer, &files)).await?;
        let Some((id, places, problem)) = wrong else {
            return Ok(());
        };
        // The registry looks at what it has: if that is damaged it says so, and a push can restore it.
        let name = self.name(&places).to_owned();
        let operation = format!("downloading `{name}` ({})", id.digest);
        self.read(&[(id, places)], true, &operation).await?;
        Err(ClientError::Corrupt {
            file: name,
            problem: format!("chunk {}: {problem}; pull again", id.digest),
        })
    }

    fn name(&self, places: &[(usize, u64)]) -> &str {
        let number = places.first().map_or(0, |(number, _)| *number);
        &self.manifest.files[number].path
    }

    async fn read(
        &self,
        batch: &[(ChunkId, Places)],
        verify: bool,
        operation: &str,
    ) -> Result<ReadChunksResponse, ClientError> {
        let request = ReadChunksRequest {
            chunks: batch.iter().map(|(id, _)| id.to_proto()).collect(),
            lease: self.lease.clone(),
            verify,
        };
        let deadline = transfer_deadline(batch.iter().map(|(id, _)| id.size).sum());
        let answer = self
            .connection
            .call_within(deadline, operation, |mut rpc| {
                let request = within(deadline, request.clone());
                async move { rpc.read_chunks(request).await }
            })
            .await;
        match answer {
            Ok(answer) => {
                let length = request.encoded_len() + answer.encoded_len();
                self.progress.moved(batch.len(), length);
                Ok(answer)
            }
            // Of several, it is not said which: each is asked for alone.
            Err(error)
                if batch.len() > 1
                    && matches!(error.code(), Some(Code::DataLoss | Code::NotFound)) =>
            {
                for (id, places) in batch {
                    let one = [(*id, places.clone())];
                    let operation = format!("downloading `{}` ({})", self.name(places), id.digest);
                    Box::pin(self.read(&one, true, &operation)).await?;
                }
                Err(error)
            }
            Err(error) => Err(error),
        }
    }

    /// Verifies and writes; returns the first chunk that is wrong, with the problem.
    fn place(
        &self,
        batch: &[(ChunkId, Places)],
        answer: ReadChunksResponse,
        files: &[File],
    ) -> Result<Option<(ChunkId, Places, String)>, ClientError> {
        let mut chunks = answer.chunks.into_iter();
        for (id, places) in batch {
            let bytes = match chunks.next().map(|chunk| unpack(*id, chunk)) {
                Some(Ok(bytes)) => bytes,
                Some(Err(problem)) => return Ok(Some((*id, places.clone(), problem))),
                None => {
                    let problem = "it was left out of the answer".to_owned();
                    return Ok(Some((*id, places.clone(), problem)));
                }
            };
            for &(number, offset) in places {
                let path = self.partial.join(&self.manifest.files[number].path);
                files[number]
                    .write_all_at(&bytes, offset)
                    .map_err(file_error("write", &path))?;
                self.progress.done(1, id.size);
            }
            reach("chunk placed");
        }
        Ok(None)
    }
}

/// Bytes of a chunk that was received, verified against what was asked for.
fn unpack(id: ChunkId, chunk: Chunk) -> Result<Bytes, String> {
    let encoding = match Encoding::try_from(chunk.encoding) {
        Ok(Encoding::Unspecified) => How::Raw,
        Ok(Encoding::Zstd) => How::Zstd,
        Err(e) => return Err(e.to_string()),
    };
    let stored = Stored {
        encoding,
        size: id.size,
        data: chunk.data,
    };
    decode(id, &stored)
}

/// A manifest of a megabyte can ask for fifty gigabytes, of one chunk again and again: that is found
/// before the disk is full.
fn check_room(needed: u64, available: u64) -> Result<(), String> {
    let all = needed.checked_add(RESERVE);
    if all.is_some_and(|all| all <= available) {
        return Ok(());
    }
    Err(format!(
        "the checkpoint needs {needed} bytes, and the disk has {available}; make room, or pull to another"
    ))
}

/// Opens a file for writing in places, as long as it is to be.
fn open(path: &Path, size: u64) -> Result<File, ClientError> {
    let folder = folder::parent(path);
    fs::create_dir_all(&folder).map_err(file_error("make", &folder))?;
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)
        .map_err(file_error("open", path))?;
    file.set_len(size).map_err(file_error("resize", path))?;
    Ok(file)
}

/// Batches that fit into an answer each, neighbours in a file together.
fn batches(wanted: BTreeMap<ChunkId, Places>) -> Vec<Vec<(ChunkId, Places)>> {
    let mut wanted: Vec<(ChunkId, Places)> = wanted.into_iter().collect();
    wanted.sort_by(|(_, a), (_, b)| a.cmp(b));
    let mut batches: Vec<Vec<(ChunkId, Places)>> = Vec::new();
    let mut room = 0;
    for (id, places) in wanted {
        match batches.last_mut() {
            Some(batch) if id.size <= room && batch.len() < MAX_BATCH => {
                room -= id.size;
                batch.push((id, places));
            }
            _ => {
                room = (MAX_CHUNK as u64).saturating_sub(id.size);
                batches.push(vec![(id, places)]);
            }
        }
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_on_the_disk_is_not_begun() {
        assert_eq!(check_room(0, RESERVE), Ok(()));
        assert_eq!(check_room(7, RESERVE + 7), Ok(()));
        assert!(check_room(8, RESERVE + 7).is_err());
        assert!(check_room(u64::MAX, u64::MAX).is_err());
    }
}
