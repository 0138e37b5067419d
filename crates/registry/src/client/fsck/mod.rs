//! Looks at every manifest, and at every chunk that one refers to, where it is stored, and brings back what is
//! damaged.

mod manifests;

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use espalier_proto::MAX_BATCH;
use espalier_proto::v1::{CheckChunksRequest, Chunk, ReadChunksRequest, WriteChunksRequest};
use tonic::Code;

use super::connection::{unary, within};
use super::{Client, ClientError};
use crate::{ChunkId, Digest, Manifest};

/// Longest check of a batch.
const CHECK: Duration = Duration::from_secs(120);

/// Bytes of chunks that are verified in one call.
const CHECK_BYTES: u64 = 64 << 20;

/// Files that a fault names; it says how many more there are.
const MAX_NAMED: usize = 20;

/// Where a damaged chunk may be whole.
#[derive(Clone, Debug)]
pub enum Mirror {
    /// In another registry.
    Registry(Box<Client>),
    /// In a folder into which a checkpoint was pulled.
    Folder(PathBuf),
}

/// Something that is wrong in a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The chunk, or the manifest.
    pub digest: Digest,
    /// What is wrong with it.
    pub problem: String,
    /// `name@digest: path` of files that need it.
    pub needed_by: Vec<String>,
    /// It was brought back from a mirror.
    pub repaired: bool,
}

/// A file that needs a chunk, and where in it.
struct Use {
    checkpoint: String,
    path: String,
    offset: u64,
}

type Uses = BTreeMap<ChunkId, Vec<Use>>;

impl Client {
    /// Verifies every chunk of every checkpoint on the registry's side, and brings damaged ones and
    /// damaged manifests back from a mirror. `progress` is told of chunks done and chunks in all.
    ///
    /// # Errors
    /// [`ClientError`] when it cannot be told; faults are no errors.
    pub async fn fsck(
        &self,
        mirror: Option<&Mirror>,
        progress: impl Fn(u64, u64),
    ) -> Result<Vec<Fault>, ClientError> {
        let mut faults = Vec::new();
        let (uses, broken) = self.uses(mirror).await?;
        let total = uses.len() as u64;
        let mut done = 0;
        for batch in batches(uses.keys().copied()) {
            progress(done, total);
            done += batch.len() as u64;
            let request = CheckChunksRequest {
                chunks: batch.iter().map(|id| id.to_proto()).collect(),
            };
            let answer = self
                .connection
                .call_within(CHECK, "checking chunks", |mut rpc| {
                    let request = within(CHECK, request.clone());
                    async move { rpc.check_chunks(request).await }
                })
                .await?;
            for finding in answer.findings {
                let named = finding.chunk.unwrap_or_default().digest;
                let Some(id) = batch.iter().find(|id| id.digest.to_string() == named) else {
                    continue;
                };
                let needed_by = &uses[id];
                let repaired = match mirror {
                    Some(mirror) => self.repair(*id, needed_by, mirror).await?,
                    None => false,
                };
                faults.push(Fault {
                    digest: id.digest,
                    problem: finding.problem,
                    needed_by: named_uses(needed_by),
                    repaired,
                });
            }
        }
        progress(total, total);
        // With their chunks, which publishing asks for.
        for mut broken in broken {
            if let Some(manifest) = &broken.whole {
                broken.fault.repaired = self.restore(manifest).await?;
            }
            faults.push(broken.fault);
        }
        Ok(faults)
    }

    /// Writes a chunk that the mirror has; the registry verifies it. False when the mirror lacks it.
    async fn repair(
        &self,
        id: ChunkId,
        uses: &[Use],
        mirror: &Mirror,
    ) -> Result<bool, ClientError> {
        let chunk = match mirror {
            Mirror::Registry(other) => other.chunk(id).await?,
            Mirror::Folder(dir) => from_folder(dir, id, uses),
        };
        let Some(chunk) = chunk else {
            return Ok(false);
        };
        let request = WriteChunksRequest {
            chunks: vec![chunk],
            lease: String::new(),
        };
        let written = self
            .connection
            .call("restoring a chunk", |mut rpc| {
                let request = unary(request.clone());
                async move { rpc.write_chunks(request).await }
            })
            .await;
        match written {
            Ok(_) => Ok(true),
            // The mirror's is damaged too.
            Err(error) if error.code() == Some(Code::DataLoss) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn chunk(&self, id: ChunkId) -> Result<Option<Chunk>, ClientError> {
        let request = ReadChunksRequest {
            chunks: vec![id.to_proto()],
            ..Default::default()
        };
        let answer = self
            .connection
            .call("reading a chunk of the mirror", |mut rpc| {
                let request = unary(request.clone());
                async move { rpc.read_chunks(request).await }
            })
            .await;
        Ok(if_whole(answer)?.and_then(|answer| answer.chunks.into_iter().next()))
    }
}

/// What was asked for, if it is there and not damaged.
fn if_whole<T>(answer: Result<T, ClientError>) -> Result<Option<T>, ClientError> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(error) if matches!(error.code(), Some(Code::NotFound | Code::DataLoss)) => Ok(None),
        Err(error) => Err(error),
    }
}

fn from_folder(dir: &Path, id: ChunkId, uses: &[Use]) -> Option<Chunk> {
    let size = usize::try_from(id.size).ok()?;
    let read = |used: &Use| {
        let mut bytes = vec![0; size];
        let file = File::open(dir.join(&used.path)).ok()?;
        file.read_exact_at(&mut bytes, used.offset).ok()?;
        (Digest::of(&bytes) == id.digest).then_some(bytes)
    };
    let bytes = uses.iter().find_map(read)?;
    Some(Chunk {
        id: Some(id.to_proto()),
        data: bytes.into(),
        ..Default::default()
    })
}

fn note_uses(manifest: &Manifest, digest: &str, uses: &mut Uses) {
    for file in &manifest.files {
        let mut offset = 0;
        for chunk in &file.chunks {
            uses.entry(*chunk).or_default().push(Use {
                checkpoint: format!("{}@{digest}", manifest.name),
                path: file.path.clone(),
                offset,
            });
            offset += chunk.size;
        }
    }
}

fn named_uses(uses: &[Use]) -> Vec<String> {
    let named = uses
        .iter()
        .take(MAX_NAMED)
        .map(|u| format!("{}: {}", u.checkpoint, u.path));
    let more = uses.len().saturating_sub(MAX_NAMED);
    named
        .chain((more > 0).then(|| format!("and {more} more")))
        .collect()
}

fn batches(chunks: impl Iterator<Item = ChunkId>) -> Vec<Vec<ChunkId>> {
    let mut batches: Vec<Vec<ChunkId>> = Vec::new();
    let mut room = 0;
    for id in chunks {
        match batches.last_mut() {
            Some(batch) if id.size <= room && batch.len() < MAX_BATCH => {
                room -= id.size;
                batch.push(id);
            }
            _ => {
                room = CHECK_BYTES.saturating_sub(id.size);
                batches.push(vec![id]);
            }
        }
    }
    batches
}
