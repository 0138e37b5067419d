use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use espalier_proto::v1::{
    Chunk, Encoding, FindMissingChunksRequest, PublishCheckpointRequest, PublishCheckpointResponse,
    WriteChunksRequest,
};
use espalier_proto::{MAX_BATCH, MAX_CHUNK};
use prost::Message as _;
use prost::bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};

use super::connection::{Connection, transfer_deadline, unary, within};
use super::folder::{self, file_error};
use super::progress::{Moved, Progress};
use super::{ClientError, Expected, PublishRequest, joined};
use crate::chunks::{Cuts, Stored, encode};
use crate::failpoint::reach;
use crate::files::blocking;
use crate::signing::Signed;
use crate::{ChunkId, Digest, FileEntry, Lineage, MAX_MANIFEST, Manifest, ManifestError};

/// Bytes of chunks that are asked for, and then sent, together.
const GROUP: usize = MAX_CHUNK;

/// Groups under way at once: with those read ahead, all that is in memory.
const PARALLEL: usize = 4;

/// Chunks that are read and hashed ahead.
const READ_AHEAD: usize = 2;

/// Passes over the folder before a push gives up: the lease of one that was held up for longer than it
/// lasts has ended, and its chunks may be gone.
const PASSES: u32 = 3;

/// A chunk that was read.
struct Piece {
    id: ChunkId,
    bytes: Bytes,
}

/// What a push came to.
#[derive(Clone, Debug)]
pub struct Pushed {
    /// Identity of the checkpoint, `sha256:...`.
    pub digest: String,
    /// The alias is protected and was left where it is.
    pub alias_kept: bool,
    /// What it took.
    pub moved: Moved,
}

pub(super) async fn push(
    connection: &Connection,
    dir: &Path,
    request: &PublishRequest,
    report: impl Fn(u64, u64) + Send + Sync + 'static,
) -> Result<Pushed, ClientError> {
    let folder = dir.to_owned();
    let (files, card) =
        blocking(move || Ok::<_, ClientError>((folder::list(&folder)?, folder::report(&folder)?)))
            .await?;
    let total = files.iter().map(|(_, size)| size).sum();
    check_size(total)?;
    let mut push = Push {
        connection: connection.clone(),
        lease: uuid::Uuid::new_v4().to_string(),
        progress: Arc::new(Progress::new(report, total)),
    };
    let mut pass = 1;
    loop {
        let entries = push.transfer(dir, files.clone()).await?;
        let manifest = manifest(request, entries, card.clone())?;
        reach("chunks sent");
        match push.publish(request, &manifest).await {
            Ok(answer) => {
                reach("published");
                push.release().await;
                return Ok(Pushed {
                    digest: answer.digest,
                    alias_kept: answer.alias_kept,
                    moved: push.progress.result(),
                });
            }
            Err(error) if pass < PASSES && error.reason().as_deref() == Some("MISSING_CHUNKS") => {
                tracing::warn!(%error, "chunks went missing; pushing again");
                pass += 1;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Refuses at once what would make no manifest in the end.
fn check_size(total: u64) -> Result<(), ClientError> {
    // At least so many bytes of a manifest for each chunk.
    const ENTRY: u64 = 91;
    let least = total.div_ceil(MAX_CHUNK as u64).saturating_mul(ENTRY);
    if least > MAX_MANIFEST as u64 {
        let size = usize::try_from(least).unwrap_or(usize::MAX);
        return Err(ManifestError::TooLarge(size).into());
    }
    Ok(())
}

fn manifest(
    request: &PublishRequest,
    files: Vec<FileEntry>,
    report: Option<serde_json::Value>,
) -> Result<Manifest, ClientError> {
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

#[derive(Clone)]
struct Push {
    connection: Connection,
    lease: String,
    progress: Arc<Progress>,
}

impl Push {
    /// One pass: every file is read once, each group of chunks is asked for and what is missing sent.
    async fn transfer(
        &mut self,
        dir: &Path,
        files: Vec<(String, u64)>,
    ) -> Result<Vec<FileEntry>, ClientError> {
        let (sender, mut pieces) = mpsc::channel(READ_AHEAD);
        let reader = read(dir.to_owned(), files, sender);
        let mut seen = HashSet::new();
        // Dropped on the first error, it aborts the rest.
        let mut groups = JoinSet::new();
        let mut group = Vec::new();
        let mut bytes = 0;
        while let Some(piece) = pieces.recv().await {
            if !seen.insert(piece.id.digest) {
                self.progress.done(1, piece.id.size);
                continue;
            }
            bytes += piece.bytes.len();
            group.push(piece);
            if bytes >= GROUP || group.len() == MAX_BATCH {
                bytes = 0;
                self.start(&mut groups, std::mem::take(&mut group)).await?;
            }
        }
        let entries = joined(reader.await)?;
        if !group.is_empty() {
            self.start(&mut groups, group).await?;
        }
        while let Some(done) = groups.join_next().await {
            joined(done)?;
        }
        Ok(entries)
    }

    async fn start(
        &self,
        groups: &mut JoinSet<Result<(), ClientError>>,
        group: Vec<Piece>,
    ) -> Result<(), ClientError> {
        while groups.len() >= PARALLEL {
            if let Some(done) = groups.join_next().await {
                joined(done)?;
            }
        }
        let push = self.clone();
        groups.spawn(async move { push.send(group).await });
        Ok(())
    }

    /// Asks which chunks of a group are missing, and sends those.
    async fn send(&self, group: Vec<Piece>) -> Result<(), ClientError> {
        let request = FindMissingChunksRequest {
            chunks: group.iter().map(|piece| piece.id.to_proto()).collect(),
            lease: self.lease.clone(),
        };
        self.progress.moved(0, request.encoded_len());
        let answer = self
            .connection
            .call("asking which chunks are missing", |mut rpc| {
                let request = unary(request.clone());
                async move { rpc.find_missing_chunks(request).await }
            })
            .await?;
        let missing: HashSet<String> = answer.missing.into_iter().map(|id| id.digest).collect();
        let mut chunks = Vec::new();
        for piece in group {
            if missing.contains(&piece.id.digest.to_string()) {
                chunks.push(piece);
            } else {
                self.progress.done(1, piece.id.size);
            }
        }
        let chunks = blocking(move || {
            let encoded = chunks.into_iter().map(|p| (p.id, encode(p.bytes)));
            Ok::<Vec<(ChunkId, Stored)>, ClientError>(encoded.collect())
        })
        .await?;
        for batch in batches(chunks) {
            self.write(batch).await?;
        }
        Ok(())
    }

    async fn write(&self, batch: Vec<(ChunkId, Stored)>) -> Result<(), ClientError> {
        let (count, bytes) = (batch.len(), batch.iter().map(|(id, _)| id.size).sum());
        let chunk = |(id, stored): (ChunkId, Stored)| Chunk {
            id: Some(id.to_proto()),
            encoding: Encoding::from(stored.encoding).into(),
            data: stored.data,
        };
        let request = WriteChunksRequest {
            chunks: batch.into_iter().map(chunk).collect(),
            lease: self.lease.clone(),
        };
        let length = request.encoded_len();
        let deadline = transfer_deadline(length as u64);
        self.connection
            .call_within(deadline, "sending chunks", |mut rpc| {
                let request = within(deadline, request.clone());
                async move { rpc.write_chunks(request).await }
            })
            .await?;
        reach("batch written");
        self.progress.moved(count, length);
        self.progress.done(count as u64, bytes);
        Ok(())
    }

    async fn publish(
        &self,
        request: &PublishRequest,
        manifest: &Manifest,
    ) -> Result<PublishCheckpointResponse, ClientError> {
        let alias = request.alias.as_ref();
        let bytes = manifest.to_bytes()?;
        let signed = request
            .sign
            .as_ref()
            .map(|key| key.sign(Digest::of(&bytes)));
        let message = PublishCheckpointRequest {
            request_id: request
                .request_id
                .clone()
                .unwrap_or_else(|| uuid::Uuid::new_v4().to_string()),
            name: request.name.clone(),
            manifest: bytes.into(),
            alias: alias.map(|a| a.name.clone()).unwrap_or_default(),
            expected_alias_digest: alias.and_then(|a| match a.expected {
                Expected::Any => None,
                Expected::Absent => Some(String::new()),
                Expected::Digest(digest) => Some(digest.to_string()),
            }),
            reason: alias.map(|a| a.reason.clone()).unwrap_or_default(),
            commit: request.commit.clone(),
            actor: request.actor.clone(),
            labels: request.labels.clone().into_iter().collect(),
            force: request.force,
            signatures: signed.iter().map(Signed::to_proto).collect(),
        };
        self.progress.moved(0, message.encoded_len());
        let operation = format!("publishing `{}`", request.name);
        self.connection
            .call(&operation, |mut rpc| {
                let message = unary(message.clone());
                async move { rpc.publish_checkpoint(message).await }
            })
            .await
    }

    async fn release(&self) {
        super::release(&self.connection, &self.lease).await;
    }
}

/// Reads files and cuts them; gives what they came to. Ends early when nobody takes the pieces.
fn read(
    dir: PathBuf,
    files: Vec<(String, u64)>,
    pieces: mpsc::Sender<Piece>,
) -> JoinHandle<Result<Vec<FileEntry>, ClientError>> {
    tokio::spawn(async move {
        let mut entries = Vec::with_capacity(files.len());
        for (path, size) in files {
            let full = dir.join(&path);
            let mut chunks = Vec::new();
            let mut cuts = {
                let full = full.clone();
                blocking(move || Cuts::open(&full, size).map_err(file_error("read", &full))).await?
            };
            loop {
                let full = full.clone();
                let (rest, piece) = blocking(move || {
                    let bytes = cuts.next().transpose();
                    let bytes = bytes.map_err(file_error("read", &full))?;
                    let piece = bytes.map(|bytes| Piece {
                        id: ChunkId::of(&bytes),
                        bytes,
                    });
                    Ok::<_, ClientError>((cuts, piece))
                })
                .await?;
                cuts = rest;
                let Some(piece) = piece else { break };
                chunks.push(piece.id);
                if pieces.send(piece).await.is_err() {
                    return Ok(entries);
                }
            }
            entries.push(FileEntry {
                media_type: folder::media_type(&path).to_owned(),
                path,
                size: chunks.iter().map(|chunk| chunk.size).sum(),
                chunks,
            });
        }
        Ok(entries)
    })
}

/// Batches that fit into a message each.
fn batches(chunks: Vec<(ChunkId, Stored)>) -> Vec<Vec<(ChunkId, Stored)>> {
    let mut batches: Vec<Vec<(ChunkId, Stored)>> = Vec::new();
    let mut room = 0;
    for (id, stored) in chunks {
        let size = stored.data.len();
        match batches.last_mut() {
            Some(batch) if size <= room && batch.len() < MAX_BATCH => {
                room -= size;
                batch.push((id, stored));
            }
            _ => {
                room = MAX_CHUNK.saturating_sub(size);
                batches.push(vec![(id, stored)]);
            }
        }
    }
    batches
}
