use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use espalier_proto::v1::ReadBlobRequest;
use prost::bytes::Bytes;
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tonic::{Code, Request, Status, Streaming};

use super::connection::Connection;
use super::folder::{self, file_error, unusable};
use super::progress::{FileProgress, Progress};
use super::retry::{MAX_TRIES, is_transient, pause};
use super::{ClientError, Found, transfer_deadline};
use crate::files::{blocking, hash_prefix};
use crate::{Digest, FileEntry};

/// Files downloaded at once.
const PARALLEL: usize = 4;

/// Longest silence of the registry in the middle of a download.
const STALL: Duration = Duration::from_secs(60);

pub(super) async fn pull(
    connection: &Connection,
    found: &Found,
    dir: &Path,
    report: impl Fn(u64, u64) + Send + Sync + 'static,
) -> Result<(), ClientError> {
    let progress = Progress::new(report, found.manifest.size());
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
        progress.file().set(found.manifest.size());
        return Ok(());
    }
    let partial = partial_of(dir)?;
    let lock = lock(&partial).await?;
    download(connection, found, &partial, &progress).await?;
    let (manifest, dir) = (found.manifest.clone(), dir.to_owned());
    blocking(move || folder::put_in_place(&partial, &dir, &manifest)).await?;
    drop(lock);
    Ok(())
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

/// Makes the folder and keeps other pulls out of it.
async fn lock(partial: &Path) -> Result<File, ClientError> {
    let partial = partial.to_owned();
    blocking(move || {
        fs::create_dir_all(&partial).map_err(file_error("make", &partial))?;
        let lock = File::open(&partial).map_err(file_error("open", &partial))?;
        lock.try_lock()
            .map_err(|_| unusable(&partial, "another pull is writing there; wait for it"))?;
        Ok(lock)
    })
    .await
}

async fn download(
    connection: &Connection,
    found: &Found,
    partial: &Path,
    progress: &Progress,
) -> Result<(), ClientError> {
    let permits = Arc::new(Semaphore::new(PARALLEL));
    // Dropped on the first error, it aborts the rest.
    let mut downloads = JoinSet::new();
    for file in &found.manifest.files {
        let permits = Arc::clone(&permits);
        let mut download = FileDownload {
            connection: connection.clone(),
            path: partial.join(&file.path),
            file: file.clone(),
            progress: progress.file(),
        };
        downloads.spawn(async move {
            let Ok(_permit) = permits.acquire().await else {
                return Ok(());
            };
            download.run().await
        });
    }
    while let Some(joined) = downloads.join_next().await {
        match joined {
            Ok(result) => result?,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
    Ok(())
}

/// The download of one file.
struct FileDownload {
    connection: Connection,
    path: PathBuf,
    file: FileEntry,
    progress: FileProgress,
}

/// Why a try did not bring the whole file.
enum Interrupted {
    /// The registry said so, or its stream ended early.
    Remote(Status),
    /// The bytes are not those of the digest.
    Mismatch { found: Digest },
    /// This side failed.
    Local(ClientError),
}

impl From<ClientError> for Interrupted {
    fn from(error: ClientError) -> Self {
        Self::Local(error)
    }
}

impl FileDownload {
    /// Downloads the file from where it is here, again from there when the link breaks; gives up when
    /// tries in a row bring nothing. Bytes found to be wrong do not stay.
    async fn run(&mut self) -> Result<(), ClientError> {
        let mut furthest = 0;
        let mut failures = 0;
        loop {
            let part = self.open_part().await?;
            let start = part.length;
            if start > furthest {
                furthest = start;
                failures = 0;
            }
            failures += 1;
            match self.receive(part).await {
                Ok(()) => return Ok(()),
                Err(Interrupted::Local(error)) => return Err(error),
                // What was here before may have been wrong: again from the beginning.
                Err(Interrupted::Mismatch { .. }) if start > 0 && failures < MAX_TRIES => {
                    self.discard().await?;
                }
                Err(Interrupted::Mismatch { found }) => {
                    self.discard().await?;
                    return Err(ClientError::Corrupt {
                        file: self.file.path.clone(),
                        problem: format!("the bytes have digest {found}, not {}", self.file.digest),
                    });
                }
                Err(Interrupted::Remote(status)) => {
                    if status.code() == Code::DataLoss {
                        self.discard().await?;
                    }
                    if failures >= MAX_TRIES || !is_transient(&status) {
                        let operation =
                            format!("downloading `{}` ({})", self.file.path, self.file.digest);
                        return Err(self.connection.failed(operation, status));
                    }
                    pause(failures, &status).await;
                }
            }
        }
    }

    async fn open_part(&self) -> Result<Part, ClientError> {
        let (path, size) = (self.path.clone(), self.file.size);
        blocking(move || Part::open(path, size)).await
    }

    async fn discard(&self) -> Result<(), ClientError> {
        let path = self.path.clone();
        blocking(move || fs::remove_file(&path).map_err(file_error("remove", &path))).await
    }

    async fn receive(&mut self, mut part: Part) -> Result<(), Interrupted> {
        self.progress.set(part.length);
        if part.length < self.file.size {
            let deadline = transfer_deadline(self.file.size - part.length);
            part = match tokio::time::timeout(deadline, self.append(part)).await {
                Ok(part) => part?,
                Err(_) => {
                    let status = Status::deadline_exceeded(format!("not done in {deadline:?}"));
                    return Err(Interrupted::Remote(status));
                }
            };
        }
        let digest = self.file.digest;
        blocking(move || part.finish(digest)).await
    }

    /// Appends the stream of a blob to the part until its whole size is there.
    async fn append(&mut self, mut part: Part) -> Result<Part, Interrupted> {
        let mut stream = self.open_stream(part.length).await?;
        loop {
            let message = match tokio::time::timeout(STALL, stream.message()).await {
                Ok(message) => message.map_err(Interrupted::Remote)?,
                Err(_) => {
                    let status = Status::deadline_exceeded(format!("no data for {STALL:?}"));
                    return Err(Interrupted::Remote(status));
                }
            };
            let Some(message) = message else { break };
            if part.length + message.data.len() as u64 > self.file.size {
                let status = Status::data_loss("more bytes came than the manifest says");
                return Err(Interrupted::Remote(status));
            }
            part = blocking(move || part.append(&message.data)).await?;
            self.progress.set(part.length);
        }
        if part.length < self.file.size {
            let problem = format!(
                "the stream ended after {} of {} bytes",
                part.length, self.file.size
            );
            return Err(Interrupted::Remote(Status::unavailable(problem)));
        }
        Ok(part)
    }

    async fn open_stream(
        &self,
        offset: u64,
    ) -> Result<Streaming<espalier_proto::v1::ReadBlobResponse>, Interrupted> {
        let mut request = Request::new(ReadBlobRequest {
            digest: self.file.digest.to_string(),
            offset,
        });
        // The registry hashes what is skipped before it answers.
        let deadline = transfer_deadline(offset);
        request.set_timeout(deadline);
        let mut rpc = self.connection.rpc();
        match tokio::time::timeout(deadline, rpc.read_blob(request)).await {
            Ok(answer) => Ok(answer.map_err(Interrupted::Remote)?.into_inner()),
            Err(_) => {
                let status = Status::deadline_exceeded(format!("no answer for {deadline:?}"));
                Err(Interrupted::Remote(status))
            }
        }
    }
}

/// The part of a file that is here.
struct Part {
    path: PathBuf,
    file: File,
    hasher: Sha256,
    length: u64,
}

impl Part {
    fn open(path: PathBuf, size: u64) -> Result<Self, ClientError> {
        let folder = folder::parent(&path);
        fs::create_dir_all(&folder).map_err(file_error("make", &folder))?;
        let mut file = File::options()
            .read(true)
            .append(true)
            .create(true)
            .open(&path)
            .map_err(file_error("open", &path))?;
        let mut length = file.metadata().map_err(file_error("read", &path))?.len();
        if length > size {
            file.set_len(0).map_err(file_error("truncate", &path))?;
            length = 0;
        }
        let hasher = hash_prefix(&mut file, length).map_err(file_error("read", &path))?;
        Ok(Self {
            path,
            file,
            hasher,
            length,
        })
    }

    fn append(mut self, data: &Bytes) -> Result<Self, ClientError> {
        self.file
            .write_all(data)
            .map_err(file_error("write", &self.path))?;
        self.hasher.update(data);
        self.length += data.len() as u64;
        Ok(self)
    }

    fn finish(self, digest: Digest) -> Result<(), Interrupted> {
        let found = Digest::finish(self.hasher);
        if found != digest {
            return Err(Interrupted::Mismatch { found });
        }
        self.file
            .sync_all()
            .map_err(file_error("sync", &self.path))?;
        Ok(())
    }
}
