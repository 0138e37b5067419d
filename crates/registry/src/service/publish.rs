use std::time::{SystemTime, UNIX_EPOCH};

use espalier_proto::v1::{PublishCheckpointRequest, StepCommit};
use espalier_store::{Compare, Op, Outcome, Range, Revision, Txn};
use prost::Message as _;

use super::{RegistryService, digest};
use crate::blobs::BlobId;
use crate::records::{
    AliasRecord, CheckpointRecord, MoveRecord, PUBLISHED, PublishRecord, alias_key, aliases_prefix,
    checkpoint_key, decode, digest_key, encode, history_key, manifest_key, publish_key,
    published_key,
};
use crate::rules::{check_name, check_request_id};
use crate::{Digest, HookPlan, Kind, Manifest, RegistryError};

/// Tries before a publish gives up because others change the same records all the time.
const MAX_ATTEMPTS: u32 = 16;

/// Most aliases of a name.
const MAX_ALIASES: usize = 256;

/// Longest reason of a move, in bytes.
const MAX_REASON: usize = 1024;

/// What an alias must be before it is moved.
#[derive(Clone, Copy)]
enum Expected {
    Any,
    Absent,
    Digest(Digest),
}

/// A request that was checked.
struct Publish {
    request_id: String,
    /// Of the whole request: a repeat has the same.
    fingerprint: Digest,
    manifest: Manifest,
    bytes: Vec<u8>,
    digest: Digest,
    alias: Option<(String, Expected)>,
    reason: String,
    commit: Option<StepCommit>,
}

impl Publish {
    fn check(request: PublishCheckpointRequest) -> Result<Self, RegistryError> {
        let wrong = |field| move |problem| RegistryError::argument(field, problem);
        let fingerprint = Digest::of(&request.encode_to_vec());
        check_request_id(&request.request_id).map_err(wrong("request_id"))?;
        check_name(&request.name).map_err(wrong("name"))?;
        if request.reason.len() > MAX_REASON {
            let problem = format!("more than {MAX_REASON} bytes");
            return Err(RegistryError::argument("reason", problem));
        }
        let expected = match request.expected_alias_digest.as_deref() {
            None => Expected::Any,
            Some("") => Expected::Absent,
            Some(text) => Expected::Digest(digest("expected_alias_digest", text)?),
        };
        let alias = if request.alias.is_empty() {
            if request.expected_alias_digest.is_some() {
                let problem = "is set, but no alias is";
                return Err(RegistryError::argument("expected_alias_digest", problem));
            }
            None
        } else {
            check_name(&request.alias).map_err(wrong("alias"))?;
            Some((request.alias, expected))
        };
        let manifest = Manifest::parse(&request.manifest)?;
        if manifest.name != request.name {
            let problem = format!("is {:?}, not name {:?}", manifest.name, request.name);
            return Err(RegistryError::argument("manifest.name", problem));
        }
        if let Some(commit) = &request.commit {
            check_commit(commit, &manifest)?;
        }
        Ok(Self {
            request_id: request.request_id,
            fingerprint,
            digest: Digest::of(&request.manifest),
            manifest,
            bytes: request.manifest.into(),
            alias,
            reason: request.reason,
            commit: request.commit,
        })
    }

    /// Conditions and changes that move the alias, if that is asked for and it is not there already.
    async fn move_alias(
        &self,
        service: &RegistryService,
        now_ms: i64,
        txn: &mut Txn,
    ) -> Result<(), RegistryError> {
        let Some((alias, expected)) = &self.alias else {
            return Ok(());
        };
        let name = &self.manifest.name;
        let key = alias_key(name, alias);
        let entry = service.leader.store().get(&key).await?;
        let before: Option<AliasRecord> = entry.as_ref().map(decode).transpose()?;
        let found = before.as_ref().map(|b| b.digest);
        let as_expected = match expected {
            Expected::Any => true,
            Expected::Absent => found.is_none(),
            Expected::Digest(digest) => found == Some(*digest),
        };
        if !as_expected {
            return Err(RegistryError::AliasMoved {
                name: name.clone(),
                alias: alias.clone(),
                found,
            });
        }
        txn.compares.push(Compare::unchanged(&key, entry.as_ref()));
        if found == Some(self.digest) {
            return Ok(());
        }
        if before.is_none() {
            let others = Range::prefix(aliases_prefix(name)).limit(MAX_ALIASES);
            if service.leader.store().range(others).await?.entries.len() >= MAX_ALIASES {
                let problem = format!("`{name}` has {MAX_ALIASES} aliases: move one of those");
                return Err(RegistryError::argument("alias", problem));
            }
        }
        let sequence = before.map_or(0, |b| b.sequence) + 1;
        let moved = MoveRecord {
            sequence,
            time_ms: now_ms,
            from: found,
            to: self.digest,
            reason: self.reason.clone(),
            job: self.commit.as_ref().map(|c| c.job_id.clone()),
        };
        let history = history_key(name, alias, sequence);
        let record = AliasRecord {
            digest: self.digest,
            sequence,
        };
        txn.compares.push(Compare::Absent(history.clone()));
        txn.ops.push(Op::put(&key, encode(&key, &record)?));
        txn.ops.push(Op::put(&history, encode(&history, &moved)?));
        Ok(())
    }

    /// Conditions and changes that record the checkpoint, unless it is there already.
    async fn record(
        &self,
        service: &RegistryService,
        now_ms: i64,
        txn: &mut Txn,
    ) -> Result<(), RegistryError> {
        let manifest_key = manifest_key(self.digest);
        if service.leader.store().get(&manifest_key).await?.is_some() {
            txn.compares.push(Compare::Exists(manifest_key));
            return Ok(());
        }
        let newest = Range::prefix(PUBLISHED).reverse().limit(1);
        let newest = service.leader.store().range(newest).await?.entries.pop();
        let newest: Option<CheckpointRecord> = newest.as_ref().map(decode).transpose()?;
        let record = CheckpointRecord {
            sequence: newest.map_or(0, |n| n.sequence) + 1,
            name: self.manifest.name.clone(),
            digest: self.digest,
            kind: self.manifest.kind,
            size: self.manifest.size(),
            job: self.manifest.lineage.job.clone(),
            step: self.manifest.lineage.step,
            created_ms: now_ms,
        };
        let published = published_key(record.sequence);
        let checkpoint = checkpoint_key(&record.name, record.sequence);
        let value = encode(&published, &record)?;
        txn.compares.push(Compare::Absent(manifest_key.clone()));
        txn.compares.push(Compare::Absent(published.clone()));
        txn.ops.extend([
            Op::put(manifest_key, self.bytes.clone()),
            Op::put(digest_key(self.digest), published.clone()),
            Op::put(checkpoint, value.clone()),
            Op::put(published, value),
        ]);
        Ok(())
    }
}

/// What a step commit says and what the manifest says of itself must be the same.
fn check_commit(commit: &StepCommit, manifest: &Manifest) -> Result<(), RegistryError> {
    let lineage = &manifest.lineage;
    let differs = |field: &str, theirs: String, ours: String| {
        Err(RegistryError::argument(
            format!("commit.{field}"),
            format!("is {theirs}, the manifest says {ours}"),
        ))
    };
    if lineage.job.as_ref() != Some(&commit.job_id) {
        return differs(
            "job_id",
            format!("`{}`", commit.job_id),
            or_none(lineage.job.as_ref().map(|job| format!("`{job}`"))),
        );
    }
    if lineage.generation != Some(commit.generation) {
        let ours = or_none(lineage.generation);
        return differs("generation", commit.generation.to_string(), ours);
    }
    if lineage.step != Some(commit.step) {
        return differs("step", commit.step.to_string(), or_none(lineage.step));
    }
    if commit.r#final != (manifest.kind == Kind::Model) {
        let ours = format!("kind `{}`", manifest.kind.as_str());
        return differs("final", commit.r#final.to_string(), ours);
    }
    Ok(())
}

fn or_none(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "none".to_owned(), |value| value.to_string())
}

impl RegistryService {
    /// Publishes a checkpoint: its manifest, its alias and its job's steps, in one transaction.
    pub(super) async fn publish(
        &self,
        request: PublishCheckpointRequest,
    ) -> Result<Digest, RegistryError> {
        let publish = Publish::check(request)?;
        let _one_by_one = self.publishing.lock().await;
        for _ in 0..MAX_ATTEMPTS {
            if let Some(digest) = self.answered(&publish).await? {
                return Ok(digest);
            }
            let (txn, wake) = self.plan(&publish).await?;
            if let Outcome::Committed(revision) = self.leader.commit(txn).await? {
                tracing::info!(
                    name = publish.manifest.name,
                    digest = %publish.digest,
                    alias = publish.alias.as_ref().map(|(alias, _)| alias),
                    %revision,
                    "checkpoint published"
                );
                if let Some(wake) = wake {
                    wake(revision);
                }
                return Ok(publish.digest);
            }
        }
        Err(RegistryError::Contention(MAX_ATTEMPTS))
    }

    /// The answer given before, if this request is a repeat.
    async fn answered(&self, publish: &Publish) -> Result<Option<Digest>, RegistryError> {
        let key = publish_key(&publish.request_id);
        let Some(entry) = self.leader.store().get(&key).await? else {
            return Ok(None);
        };
        let record: PublishRecord = decode(&entry)?;
        if record.request != publish.fingerprint {
            let problem = "was used by another publish: make a new one";
            return Err(RegistryError::argument("request_id", problem));
        }
        Ok(Some(record.digest))
    }

    /// The transaction, from what is in the store now, and whom to wake after it.
    async fn plan(
        &self,
        publish: &Publish,
    ) -> Result<(Txn, Option<Box<dyn FnOnce(Revision) + Send>>), RegistryError> {
        let blobs = publish.manifest.files.iter().map(|file| BlobId {
            digest: file.digest,
            size: file.size,
        });
        let missing = self.blobs.missing(blobs.collect()).await?;
        if !missing.is_empty() {
            let digests = missing.into_iter().map(|id| id.digest).collect();
            return Err(RegistryError::MissingBlobs(digests));
        }
        let now_ms = now_ms();
        let mut txn = Txn::new();
        publish.record(self, now_ms, &mut txn).await?;
        publish.move_alias(self, now_ms, &mut txn).await?;
        let hook = match &publish.commit {
            Some(commit) => self
                .hook
                .prepare(commit, &publish.digest.to_string(), &publish.manifest.name)
                .await
                .map_err(|status| RegistryError::Hook(Box::new(status)))?,
            None => HookPlan::default(),
        };
        txn.compares.extend(hook.compares);
        txn.ops.extend(hook.ops);
        let key = publish_key(&publish.request_id);
        let record = PublishRecord {
            request: publish.fingerprint,
            digest: publish.digest,
        };
        txn.compares.push(Compare::Absent(key.clone()));
        txn.ops.push(Op::put(&key, encode(&key, &record)?));
        Ok((txn, hook.wake))
    }
}

fn now_ms() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
