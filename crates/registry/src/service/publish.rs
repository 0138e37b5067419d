use std::collections::BTreeMap;

use espalier_proto::v1::{PublishCheckpointRequest, PublishCheckpointResponse, StepCommit};
use espalier_store::{Compare, Op, Outcome, Range, Revision, Txn};
use prost::Message as _;

use super::RegistryService;
use super::alias::{Change, Expected, MAX_ATTEMPTS, Target};
use super::change::check_labels;
use super::requests::check_words;
use crate::failpoint::reach;
use crate::records::{
    CheckpointRecord, NoteRecord, PUBLISHED, PublishRecord, card_key, checkpoint_key, decode,
    digest_key, encode, manifest_key, note_key, publish_key, published_key, signatures_key,
};
use crate::rules::{check_name, check_request_id};
use crate::signing::{MAX_SIGNATURES, Signed};
use crate::{Digest, HookPlan, Kind, Manifest, RegistryError};

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
    actor: String,
    labels: BTreeMap<String, String>,
    force: bool,
    signatures: Vec<Signed>,
    commit: Option<StepCommit>,
}

/// A transaction, and what comes of it.
struct Plan {
    txn: Txn,
    alias_kept: bool,
    wake: Option<Box<dyn FnOnce(Revision) + Send>>,
}

impl Publish {
    fn check(request: PublishCheckpointRequest) -> Result<Self, RegistryError> {
        let wrong = |field| move |problem| RegistryError::argument(field, problem);
        let fingerprint = fingerprint(&request);
        check_request_id(&request.request_id).map_err(wrong("request_id"))?;
        check_name(&request.name).map_err(wrong("name"))?;
        check_words(&request.reason, &request.actor)?;
        let labels: BTreeMap<String, String> = request.labels.into_iter().collect();
        check_labels(&labels)?;
        let expected = request.expected_alias_digest.as_deref();
        let expected = Expected::parse("expected_alias_digest", expected)?;
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
        let digest = Digest::of(&request.manifest);
        let signatures = Signed::parse_all(&request.signatures, digest)
            .map_err(|problem| RegistryError::argument("signatures", problem))?;
        Ok(Self {
            request_id: request.request_id,
            fingerprint,
            digest,
            signatures,
            manifest,
            bytes: request.manifest.into(),
            alias,
            reason: request.reason,
            actor: request.actor,
            labels,
            force: request.force,
            commit: request.commit,
        })
    }

    /// The move of the alias that is asked for.
    fn alias_change(&self) -> Option<Change> {
        let (alias, expected) = self.alias.as_ref()?;
        Some(Change {
            name: self.manifest.name.clone(),
            alias: alias.clone(),
            target: Target::Digest(self.digest),
            expected: *expected,
            protect: None,
            force: self.force,
            reason: self.reason.clone(),
            actor: self.actor.clone(),
            job: self.commit.as_ref().map(|c| c.job_id.clone()),
        })
    }

    /// Conditions and changes that record the checkpoint, unless it is there already. A manifest that was
    /// damaged or lost takes its place again.
    async fn record(
        &self,
        service: &RegistryService,
        now_ms: i64,
        txn: &mut Txn,
    ) -> Result<(), RegistryError> {
        let manifest_key = manifest_key(self.digest);
        let there = service.store().get(&manifest_key).await?;
        if let Some(entry) = &there
            && entry.value == self.bytes
        {
            txn.compares.push(Compare::Exists(manifest_key));
            return Ok(());
        }
        let digest_key = digest_key(self.digest);
        if service.store().get(&digest_key).await?.is_some() {
            txn.compares
                .push(Compare::unchanged(&manifest_key, there.as_ref()));
            txn.compares.push(Compare::Exists(digest_key));
            txn.ops.push(Op::put(manifest_key, self.bytes.clone()));
            return Ok(());
        }
        let newest = Range::prefix(PUBLISHED).reverse().limit(1);
        let newest = service.store().range(newest).await?.entries.pop();
        let newest: Option<CheckpointRecord> = newest.as_ref().map(decode).transpose()?;
        let record = CheckpointRecord {
            sequence: newest.map_or(0, |n| n.sequence) + 1,
            name: self.manifest.name.clone(),
            digest: self.digest,
            kind: self.manifest.kind,
            size: self.manifest.size(),
            job: self.manifest.lineage.job.clone(),
            step: self.manifest.lineage.step,
            parent: self.manifest.lineage.parent,
            teacher: self.manifest.lineage.teacher,
            created_ms: now_ms,
        };
        let published = published_key(record.sequence);
        let checkpoint = checkpoint_key(&record.name, record.sequence);
        let value = encode(&published, &record)?;
        txn.compares
            .push(Compare::unchanged(&manifest_key, there.as_ref()));
        txn.compares.push(Compare::Absent(published.clone()));
        txn.ops.extend([
            Op::put(manifest_key, self.bytes.clone()),
            Op::put(digest_key, published.clone()),
            Op::put(checkpoint, value.clone()),
            Op::put(published, value),
        ]);
        #[cfg(feature = "mutants")]
        if espalier_mutants::is("alias-first") {
            txn.ops
                .retain(|op| !op.key().starts_with(crate::records::MANIFESTS));
        }
        if let Some(report) = &self.manifest.report {
            let card = card_key(self.digest);
            txn.ops.push(Op::put(&card, encode(&card, report)?));
        }
        if !self.labels.is_empty() {
            let note = note_key(self.digest);
            let record = NoteRecord {
                labels: self.labels.clone(),
                keep: false,
            };
            txn.ops.push(Op::put(&note, encode(&note, &record)?));
        }
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

/// Of a request without its labels, whose map has no order on the wire, and of those in order.
fn fingerprint(request: &PublishCheckpointRequest) -> Digest {
    let labels: BTreeMap<&String, &String> = request.labels.iter().collect();
    let bare = PublishCheckpointRequest {
        labels: Default::default(),
        ..request.clone()
    };
    let mut bytes = bare.encode_to_vec();
    bytes.extend(format!("{labels:?}").into_bytes());
    Digest::of(&bytes)
}

impl RegistryService {
    /// Publishes a checkpoint: its manifest, its alias and its job's steps, in one transaction.
    pub(crate) async fn publish(
        &self,
        request: PublishCheckpointRequest,
    ) -> Result<PublishCheckpointResponse, RegistryError> {
        let publish = Publish::check(request)?;
        let _one_by_one = self.0.publishing.lock().await;
        for _ in 0..MAX_ATTEMPTS {
            if let Some(answer) = self.answered(&publish).await? {
                return Ok(answer);
            }
            // From the look at the chunks until the commit, none of them goes.
            let _gate = self.0.gate.read().await;
            let Plan {
                txn,
                alias_kept,
                wake,
            } = self.plan(&publish).await?;
            reach("publish planned");
            if let Outcome::Committed(revision) = self.0.leader.commit(txn).await? {
                reach("publish committed");
                tracing::info!(
                    name = publish.manifest.name,
                    digest = %publish.digest,
                    alias = publish.alias.as_ref().map(|(alias, _)| alias),
                    alias_kept,
                    %revision,
                    "checkpoint published"
                );
                if let Some(wake) = wake {
                    wake(revision);
                }
                return Ok(answer(publish.digest, alias_kept));
            }
        }
        Err(RegistryError::Contention(MAX_ATTEMPTS))
    }

    /// The answer given before, if this request is a repeat.
    async fn answered(
        &self,
        publish: &Publish,
    ) -> Result<Option<PublishCheckpointResponse>, RegistryError> {
        let key = publish_key(&publish.request_id);
        let Some(entry) = self.store().get(&key).await? else {
            return Ok(None);
        };
        let record: PublishRecord = decode(&entry)?;
        if record.request != publish.fingerprint {
            let problem = "was used by another publish: make a new one";
            return Err(RegistryError::argument("request_id", problem));
        }
        Ok(Some(answer(record.digest, record.alias_kept)))
    }

    /// The transaction, from what is in the store now.
    async fn plan(&self, publish: &Publish) -> Result<Plan, RegistryError> {
        let chunks = publish.manifest.chunks();
        // A collection under way read the manifests before: it must not take these for garbage.
        self.fresh().extend(chunks.iter().map(|id| id.digest));
        let missing = self.0.blobs.missing(&chunks).await?;
        if !missing.is_empty() {
            let digests = missing.into_iter().map(|id| id.digest).collect();
            return Err(RegistryError::MissingChunks(digests));
        }
        let mut txn = Txn::new();
        publish
            .record(self, self.0.clock.wall_ms(), &mut txn)
            .await?;
        self.add_signatures(publish, &mut txn).await?;
        let alias_kept = self.plan_publish_alias(publish, &mut txn).await?;
        let hook = match &publish.commit {
            Some(commit) => self
                .0
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
            alias_kept,
            time_ms: self.0.clock.wall_ms(),
        };
        txn.compares.push(Compare::Absent(key.clone()));
        txn.ops.push(Op::put(&key, encode(&key, &record)?));
        Ok(Plan {
            txn,
            alias_kept,
            wake: hook.wake,
        })
    }

    /// Adds signatures to those that the checkpoint has.
    async fn add_signatures(&self, publish: &Publish, txn: &mut Txn) -> Result<(), RegistryError> {
        if publish.signatures.is_empty() {
            return Ok(());
        }
        let key = signatures_key(publish.digest);
        let entry = self.store().get(&key).await?;
        let mut all: Vec<Signed> = entry.as_ref().map(decode).transpose()?.unwrap_or_default();
        for signed in &publish.signatures {
            if !all.contains(signed) {
                all.push(signed.clone());
            }
        }
        if all.len() > MAX_SIGNATURES {
            let problem = format!("the checkpoint would have more than {MAX_SIGNATURES}");
            return Err(RegistryError::argument("signatures", problem));
        }
        txn.compares.push(Compare::unchanged(&key, entry.as_ref()));
        txn.ops.push(Op::put(&key, encode(&key, &all)?));
        Ok(())
    }

    /// Moves the alias; true when it is protected and left alone. A job that has trained for days must
    /// not lose its model to a protected alias, whoever pushes by hand can be told.
    async fn plan_publish_alias(
        &self,
        publish: &Publish,
        txn: &mut Txn,
    ) -> Result<bool, RegistryError> {
        let Some(change) = publish.alias_change() else {
            return Ok(false);
        };
        match self.plan_alias(&change, txn).await {
            Ok(_) => Ok(false),
            Err(RegistryError::Protected { .. }) if publish.commit.is_some() => Ok(true),
            Err(error) => Err(error),
        }
    }
}

fn answer(digest: Digest, alias_kept: bool) -> PublishCheckpointResponse {
    PublishCheckpointResponse {
        digest: digest.to_string(),
        alias_kept,
    }
}
