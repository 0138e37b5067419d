use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use espalier_proto::BLOB_CHUNK;
use espalier_proto::v1::{
    BlobId, FindMissingBlobsRequest, PublishCheckpointRequest, QueryWriteStatusRequest,
    QueryWriteStatusResponse, WriteBlobHeader, WriteBlobRequest,
};
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

use super::connection::{Connection, unary};
use super::folder::{self, file_error};
use super::progress::{FileProgress, Progress};
use super::retry::{MAX_TRIES, is_transient, pause};
use super::{ClientError, Expected, PublishRequest, transfer_deadline};
use crate::files::blocking;
use crate::{FileEntry, Lineage, Manifest};

/// Files uploaded at once.
const PARALLEL: usize = 4;

/// Pieces that are read ahead of the network.
const READ_AHEAD: usize = 2;

/// Looks at another client's upload of the same blob, without any progress, before giving up.
const MAX_LOOKS: u32 = 120;

/// Time between two such looks.
const LOOK: Duration = Duration::from_millis(500);

pub(super) async fn push(
    connection: &Connection,
    dir: &Path,
    request: &PublishRequest,
    report: impl Fn(u64, u64) + Send + Sync + 'static,
) -> Result<String, ClientError> {
    let manifest = read_manifest(dir, request).await?;
    let progress = Progress::new(report, manifest.size());
    upload_missing(connection, dir, &manifest, &progress).await?;
    publish(connection, request, &manifest).await
}

async fn read_manifest(dir: &Path, request: &PublishRequest) -> Result<Manifest, ClientError> {
    let dir = dir.to_owned();
    let (files, report) =
        blocking(move || Ok::<_, ClientError>((folder::read(&dir)?, folder::report(&dir)?)))
            .await?;
    let mut lineage = request.lineage.clone();
    if let Some(commit) = &request.commit {
        // The registry refuses a commit that says otherwise than the manifest.
        lineage = Lineage {
            job: Some(commit.job_id.clone()),
            generation: Some(commit.generation),
            step: Some(commit.step),
            ..lineage
        };
    }
    Ok(Manifest::new(
        request.kind,
        &request.name,
        files,
        lineage,
        report,
    )?)
}

async fn upload_missing(
    connection: &Connection,
    dir: &Path,
    manifest: &Manifest,
    progress: &Progress,
) -> Result<(), ClientError> {
    let request = FindMissingBlobsRequest {
        blobs: manifest.files.iter().map(blob_id).collect(),
    };
    let missing: HashSet<String> = connection
        .call("asking which files are missing", |mut rpc| {
            let request = unary(request.clone());
            async move { rpc.find_missing_blobs(request).await }
        })
        .await?
        .missing
        .into_iter()
        .map(|id| id.digest)
        .collect();
    let mut taken = HashSet::new();
    let permits = Arc::new(Semaphore::new(PARALLEL));
    // Dropped on the first error, it aborts the rest.
    let mut uploads = JoinSet::new();
    for file in &manifest.files {
        let mut done = progress.file();
        if !missing.contains(&file.digest.to_string()) || !taken.insert(file.digest) {
            done.set(file.size);
            continue;
        }
        let permits = Arc::clone(&permits);
        let mut upload = FileUpload {
            connection: connection.clone(),
            path: dir.join(&file.path),
            file: file.clone(),
            progress: done,
        };
        uploads.spawn(async move {
            let Ok(_permit) = permits.acquire().await else {
                return Ok(());
            };
            upload.run().await
        });
    }
    while let Some(joined) = uploads.join_next().await {
        match joined {
            Ok(result) => result?,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
    Ok(())
}

async fn publish(
    connection: &Connection,
    request: &PublishRequest,
    manifest: &Manifest,
) -> Result<String, ClientError> {
    let alias = request.alias.as_ref();
    let message = PublishCheckpointRequest {
        request_id: request
            .request_id
            .clone()
            .unwrap_or_else(|| uuid::Uuid::new_v4().to_string()),
        name: request.name.clone(),
        manifest: manifest.to_bytes()?.into(),
        alias: alias.map(|a| a.name.clone()).unwrap_or_default(),
        expected_alias_digest: alias.and_then(|a| match a.expected {
            Expected::Any => None,
            Expected::Absent => Some(String::new()),
            Expected::Digest(digest) => Some(digest.to_string()),
        }),
        reason: alias.map(|a| a.reason.clone()).unwrap_or_default(),
        commit: request.commit.clone(),
    };
    let operation = format!("publishing `{}`", request.name);
    let answer = connection
        .call(&operation, |mut rpc| {
            let message = unary(message.clone());
            async move { rpc.publish_checkpoint(message).await }
        })
        .await?;
    Ok(answer.digest)
}

/// The upload of one file.
struct FileUpload {
    connection: Connection,
    path: PathBuf,
    file: FileEntry,
    progress: FileProgress,
}

impl FileUpload {
    /// Uploads the file from where the registry has it, again from there when the link breaks; gives
    /// up when tries in a row bring nothing.
    async fn run(&mut self) -> Result<(), ClientError> {
        let mut furthest = 0;
        let mut failures = 0;
        let mut looks = 0;
        loop {
            let status = self.status().await?;
            self.progress.set(status.committed_size);
            if status.complete {
                return Ok(());
            }
            if status.committed_size > furthest {
                furthest = status.committed_size;
                (failures, looks) = (0, 0);
            }
            let Err(error) = self.send(status.committed_size).await? else {
                continue;
            };
            if is_being_uploaded(&error) {
                looks += 1;
                if looks == MAX_LOOKS {
                    return Err(self.failed(error));
                }
                tokio::time::sleep(LOOK).await;
                continue;
            }
            if error.code() == Code::DataLoss {
                self.check_unchanged().await?;
                // Otherwise the part was damaged there: what is to come starts at 0.
                furthest = 0;
            } else if !is_transient(&error) && error.code() != Code::OutOfRange {
                return Err(self.failed(error));
            }
            failures += 1;
            if failures == MAX_TRIES {
                return Err(self.failed(error));
            }
            pause(failures, &error).await;
        }
    }

    async fn status(&self) -> Result<QueryWriteStatusResponse, ClientError> {
        let request = QueryWriteStatusRequest {
            blob: Some(blob_id(&self.file)),
        };
        let operation = format!("asking how far `{}` is", self.file.path);
        self.connection
            .call(&operation, |mut rpc| {
                let request = unary(request.clone());
                async move { rpc.query_write_status(request).await }
            })
            .await
    }

    /// Sends the file from an offset. The outer error is this side's, the inner the registry's; an
    /// upload that the registry ended without the whole is seen by the next look at its status.
    async fn send(&mut self, offset: u64) -> Result<Result<(), Status>, ClientError> {
        let deadline = transfer_deadline(self.file.size.saturating_sub(offset));
        let (messages, outgoing) = mpsc::channel(READ_AHEAD);
        let mut request = Request::new(ReceiverStream::new(outgoing));
        request.set_timeout(deadline);
        let mut rpc = self.connection.rpc();
        let call = tokio::time::timeout(deadline, rpc.write_blob(request));
        let (read, answer) = tokio::join!(self.read_into(messages, offset), call);
        read?;
        Ok(match answer {
            Ok(answer) => answer.map(drop),
            Err(_) => Err(Status::deadline_exceeded(format!(
                "not done in {deadline:?}"
            ))),
        })
    }

    /// Reads the file into an upload's messages. Ends early when the upload has ended.
    async fn read_into(
        &mut self,
        messages: mpsc::Sender<WriteBlobRequest>,
        offset: u64,
    ) -> Result<(), ClientError> {
        let failed = || file_error("read", &self.path);
        let mut file = File::open(&self.path).await.map_err(failed())?;
        file.seek(std::io::SeekFrom::Start(offset))
            .await
            .map_err(failed())?;
        let mut header = Some(WriteBlobHeader {
            blob: Some(blob_id(&self.file)),
            offset,
        });
        let mut sent = offset;
        loop {
            let mut data = Vec::with_capacity(BLOB_CHUNK);
            let mut piece = (&mut file).take(BLOB_CHUNK as u64);
            let read = piece.read_to_end(&mut data).await.map_err(failed())?;
            sent += read as u64;
            let finish = read < BLOB_CHUNK || sent >= self.file.size;
            let message = WriteBlobRequest {
                header: header.take(),
                data: data.into(),
                finish,
            };
            if messages.send(message).await.is_err() {
                return Ok(());
            }
            self.progress.set(sent.min(self.file.size));
            if finish {
                return Ok(());
            }
        }
    }

    async fn check_unchanged(&self) -> Result<(), ClientError> {
        let path = self.path.clone();
        let now = blocking(move || folder::hash(&path)).await?;
        if now == (self.file.size, self.file.digest) {
            return Ok(());
        }
        Err(ClientError::Corrupt {
            file: self.file.path.clone(),
            problem: "it changed while it was pushed; push again".to_owned(),
        })
    }

    fn failed(&self, status: Status) -> ClientError {
        let operation = format!("uploading `{}`", self.file.path);
        self.connection.failed(operation, status)
    }
}

fn is_being_uploaded(status: &Status) -> bool {
    status
        .get_details_error_info()
        .is_some_and(|info| info.reason == "UPLOAD_IN_PROGRESS")
}

fn blob_id(file: &FileEntry) -> BlobId {
    BlobId {
        digest: file.digest.to_string(),
        size: file.size,
    }
}
