//! A collection, in steps between which anything may happen.
//!
//! ```text
//! begin    the epoch grows; from now on publishes note their chunks as fresh
//! retire   retention takes checkpoints away, one a step
//! mark     the chunks of every manifest, a page a step
//! sweep    a page of chunks a step: what is marked, fresh or pinned loses its tombstone; anything else
//!          gets one, and goes when a collection before this one gave it one and the grace is over
//! forget   answers to publishes of more than a week ago
//! ```
//!
//! Marking reads the manifests while others publish. It cannot miss one: what was published before it
//! began is read, what is published after is fresh before it is committed.

use std::collections::{BTreeMap, HashMap, HashSet};

use espalier_proto::v1::{CollectGarbageResponse, RetiredCheckpoint};
use espalier_store::{Op, Range, Txn};

use super::retention::{Candidate, Policy, retire};
use super::sweep::BATCH;
use crate::filter::look_up;
use crate::objects::Page;
use crate::records::{
    CheckpointRecord, EPOCH, MANIFESTS, PUBLISHED, TOMBSTONES, Tombstone, decode, encode,
};
use crate::service::RegistryService;
use crate::{Digest, Kind, Manifest, RegistryError};

/// Manifests read at once: each may have 1 MiB.
const MANIFEST_PAGE: usize = 16;

/// Most checkpoints that one collection retires.
const MAX_RETIRED: usize = 10_000;

/// Most that the report of a collection lists.
const MAX_LISTED: usize = 1000;

/// A collection under way.
pub(crate) struct Cycle {
    pub(super) service: RegistryService,
    pub(super) dry_run: bool,
    pub(super) epoch: u64,
    stage: Stage,
    pub(super) marked: HashSet<Digest>,
    /// Tombstones as they are stored.
    pub(super) tombstones: HashMap<Digest, Tombstone>,
    /// Tombstones of which the chunk was not come across yet.
    pub(super) strays: HashSet<Digest>,
    pub(super) report: CollectGarbageResponse,
}

enum Stage {
    Begin,
    Retire(Vec<(CheckpointRecord, String)>),
    Mark(Option<String>),
    Sweep(Option<Page>),
    /// Chunks of a page that are due, and the page after it.
    Remove(Vec<Digest>, Option<Page>),
    /// Answers to publishes that nobody will repeat.
    Forget(Option<String>),
    Done,
}

impl Cycle {
    pub(crate) fn new(service: &RegistryService, dry_run: bool) -> Self {
        Self {
            service: service.clone(),
            dry_run,
            epoch: 0,
            stage: Stage::Begin,
            marked: HashSet::new(),
            tombstones: HashMap::new(),
            strays: HashSet::new(),
            report: CollectGarbageResponse::default(),
        }
    }

    pub(crate) fn is_done(&self) -> bool {
        matches!(self.stage, Stage::Done)
    }

    pub(crate) fn into_report(self) -> CollectGarbageResponse {
        self.report
    }

    /// Does the next step; returns the chunks that it removed.
    pub(crate) async fn step(&mut self) -> Result<u64, RegistryError> {
        let swept = self.report.swept_chunks;
        self.stage = match std::mem::replace(&mut self.stage, Stage::Done) {
            Stage::Begin => {
                self.begin().await?;
                Stage::Retire(self.retention().await?)
            }
            Stage::Retire(mut rest) => match rest.pop() {
                Some((record, reason)) => {
                    self.retire(&record, reason).await?;
                    Stage::Retire(rest)
                }
                None => Stage::Mark(None),
            },
            Stage::Mark(after) => match self.mark(after).await? {
                Some(next) => Stage::Mark(Some(next)),
                None => Stage::Sweep(None),
            },
            Stage::Sweep(after) => {
                let listed = self.service.0.blobs.list(after).await?;
                let due = self.sweep(&listed.objects).await?;
                Stage::Remove(due, listed.next)
            }
            Stage::Remove(due, next) if due.is_empty() => match next {
                Some(next) => Stage::Sweep(Some(next)),
                None => {
                    self.forget_strays().await?;
                    Stage::Forget(None)
                }
            },
            Stage::Remove(mut due, next) => {
                let batch = due.split_off(due.len().saturating_sub(BATCH));
                self.remove(&batch).await?;
                Stage::Remove(due, next)
            }
            Stage::Forget(after) => match self.forget_publishes(after).await? {
                Some(next) => Stage::Forget(Some(next)),
                None => Stage::Done,
            },
            Stage::Done => Stage::Done,
        };
        Ok(self.report.swept_chunks - swept)
    }

    async fn begin(&mut self) -> Result<(), RegistryError> {
        let store = self.service.store();
        let mut after = None;
        loop {
            let mut range = Range::prefix(TOMBSTONES);
            if let Some(after) = after {
                range = range.after(after);
            }
            let page = store.range(range).await?;
            for entry in &page.entries {
                let text = &entry.key[TOMBSTONES.len()..];
                let digest = text.parse().map_err(|_| RegistryError::Record {
                    key: entry.key.clone(),
                    problem: "its name is not a digest".to_owned(),
                })?;
                self.tombstones.insert(digest, decode(entry)?);
            }
            after = page.entries.last().map(|entry| entry.key.clone());
            if !page.more {
                break;
            }
        }
        self.strays = self.tombstones.keys().copied().collect();
        let last = store.get(EPOCH).await?;
        let last: u64 = last.as_ref().map(decode).transpose()?.unwrap_or(0);
        self.epoch = last + 1;
        if !self.dry_run {
            let op = Op::put(EPOCH, encode(EPOCH, &self.epoch)?);
            self.service.0.leader.commit(Txn::new().then(op)).await?;
        }
        // No publish is between its look at its chunks and its commit now.
        let _gate = self.service.0.gate.write().await;
        self.service.fresh().clear();
        Ok(())
    }

    /// What retention takes away, newest first, so that what is popped is the oldest.
    async fn retention(&self) -> Result<Vec<(CheckpointRecord, String)>, RegistryError> {
        let service = &self.service;
        let mut names: BTreeMap<String, Vec<CheckpointRecord>> = BTreeMap::new();
        let mut after = None;
        loop {
            let mut range = Range::prefix(PUBLISHED).reverse();
            if let Some(after) = after {
                range = range.after(after);
            }
            let page = service.store().range(range).await?;
            for entry in &page.entries {
                let record: CheckpointRecord = decode(entry)?;
                names.entry(record.name.clone()).or_default().push(record);
            }
            after = page.entries.last().map(|entry| entry.key.clone());
            if !page.more {
                break;
            }
        }
        let default = service.policy("").await?.unwrap_or_default();
        let mut retired = Vec::new();
        for (name, records) in names {
            let own = service.policy(&name).await?;
            let policy = own.as_ref().unwrap_or(&default);
            let (candidates, ended) = self.candidates(policy, &name, &records).await?;
            let reasons: HashMap<Digest, String> =
                retire(policy, &candidates, &ended).into_iter().collect();
            let gone = records.into_iter().filter_map(|record| {
                let reason = reasons.get(&record.digest)?.clone();
                Some((record, reason))
            });
            retired.extend(gone);
            if retired.len() >= MAX_RETIRED {
                retired.truncate(MAX_RETIRED);
                break;
            }
        }
        Ok(retired)
    }

    async fn candidates(
        &self,
        policy: &Policy,
        name: &str,
        records: &[CheckpointRecord],
    ) -> Result<(Vec<Candidate>, BTreeMap<String, bool>), RegistryError> {
        let service = &self.service;
        let aliases = service.aliases(name).await?;
        let mut ended = BTreeMap::new();
        let mut candidates = Vec::with_capacity(records.len());
        for record in records {
            if let (Kind::Training, Some(job)) = (record.kind, &record.job)
                && !ended.contains_key(job)
            {
                let has_ended = service.0.hook.has_ended(job).await;
                let has_ended = has_ended.map_err(|s| RegistryError::Hook(Box::new(s)))?;
                ended.insert(job.clone(), has_ended);
            }
            let pointed = aliases.iter().any(|(_, digest)| *digest == record.digest);
            let figure = match &policy.best {
                Some(best) => {
                    let path: Vec<&str> = best.field.split('.').collect();
                    let report = service.report(record.digest).await?;
                    look_up(&report, &path).and_then(serde_json::Value::as_f64)
                }
                None => None,
            };
            candidates.push(Candidate {
                digest: record.digest,
                kind: record.kind,
                job: record.job.clone(),
                kept: pointed || service.note(record.digest).await?.keep,
                figure,
            });
        }
        Ok((candidates, ended))
    }

    async fn retire(
        &mut self,
        record: &CheckpointRecord,
        reason: String,
    ) -> Result<(), RegistryError> {
        // A dry run marks as if it were gone already.
        let removed = match self.dry_run {
            true => Ok(()),
            false => self.service.remove(record.digest).await,
        };
        match removed {
            Ok(()) => {}
            // An alias was faster, or someone deleted it.
            Err(RegistryError::Kept { .. } | RegistryError::NotFound { .. }) => return Ok(()),
            Err(error) => return Err(error),
        }
        self.report.retired_count += 1;
        if self.report.retired.len() < MAX_LISTED {
            self.report.retired.push(RetiredCheckpoint {
                name: record.name.clone(),
                digest: record.digest.to_string(),
                reason,
            });
        }
        Ok(())
    }

    /// Marks a page of manifests; returns where the next begins.
    async fn mark(&mut self, after: Option<String>) -> Result<Option<String>, RegistryError> {
        let mut range = Range::prefix(MANIFESTS).limit(MANIFEST_PAGE);
        if let Some(after) = after {
            range = range.after(after);
        }
        let page = self.service.store().range(range).await?;
        for entry in &page.entries {
            if self.dry_run && self.is_retired(&entry.key) {
                continue;
            }
            // What cannot be read refers to who knows what: nothing is collected until it is mended.
            let manifest = Manifest::parse(&entry.value).map_err(|e| RegistryError::Record {
                key: entry.key.clone(),
                problem: format!("{e}; no garbage is collected until it is restored or deleted"),
            })?;
            let chunks = manifest.files.iter().flat_map(|file| &file.chunks);
            self.marked.extend(chunks.map(|id| id.digest));
        }
        let last = page.entries.last().map(|entry| entry.key.clone());
        Ok(last.filter(|_| page.more))
    }

    fn is_retired(&self, manifest_key: &str) -> bool {
        let digest = &manifest_key[MANIFESTS.len()..];
        self.report
            .retired
            .iter()
            .any(|retired| retired.digest == digest)
    }
}
