//! Labels, deletion and retention policies.

use std::collections::BTreeMap;

use espalier_proto::v1::{
    Checkpoint, GetRetentionResponse, SetRetentionRequest, UpdateCheckpointRequest,
};
use espalier_store::{Compare, Op, Outcome, Txn};

use super::RegistryService;
use super::alias::MAX_ATTEMPTS;
use super::lookup::{Reference, pointing};
use crate::gc::Policy;
use crate::records::{
    CheckpointRecord, NoteRecord, card_key, checkpoint_key, decode, digest_key, encode,
    manifest_key, note_key, published_key, retention_key, signatures_key,
};
use crate::rules::{check_name, check_shown};
use crate::{Digest, RegistryError};

/// Most labels of a checkpoint.
const MAX_LABELS: usize = 64;

/// Longest value of a label, in bytes.
const MAX_LABEL: usize = 256;

pub(super) fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), RegistryError> {
    if labels.len() > MAX_LABELS {
        let problem = format!("at most {MAX_LABELS}, not {}", labels.len());
        return Err(RegistryError::argument("labels", problem));
    }
    for (name, value) in labels {
        check_name(name).map_err(|problem| RegistryError::argument("labels", problem))?;
        check_shown(value, MAX_LABEL).map_err(|problem| {
            RegistryError::argument("labels", format!("value of {name:?}: {problem}"))
        })?;
    }
    Ok(())
}

impl RegistryService {
    pub(crate) async fn update(
        &self,
        request: UpdateCheckpointRequest,
    ) -> Result<Checkpoint, RegistryError> {
        let digest = self.resolve(&request.reference).await?;
        let _one_by_one = self.0.publishing.lock().await;
        for _ in 0..MAX_ATTEMPTS {
            let key = note_key(digest);
            let entry = self.store().get(&key).await?;
            let mut note: NoteRecord = entry.as_ref().map(decode).transpose()?.unwrap_or_default();
            let set = request.set_labels.iter();
            note.labels.extend(set.map(|(k, v)| (k.clone(), v.clone())));
            for name in &request.remove_labels {
                note.labels.remove(name);
            }
            check_labels(&note.labels)?;
            note.keep = request.keep.unwrap_or(note.keep);
            let txn = Txn::new()
                .when(Compare::Exists(manifest_key(digest)))
                .when(Compare::unchanged(&key, entry.as_ref()))
                .then(Op::put(&key, encode(&key, &note)?));
            if let Outcome::Committed(_) = self.0.leader.commit(txn).await? {
                let record = self.record_of(digest).await?;
                let aliases = self.aliases(&record.name).await?;
                return Ok(record.to_proto(pointing(&aliases, digest), note));
            }
        }
        Err(RegistryError::Contention(MAX_ATTEMPTS))
    }

    pub(crate) async fn delete(&self, reference: &str) -> Result<(), RegistryError> {
        let Reference::Digest { digest, .. } = Reference::parse(reference)? else {
            let problem = "is an alias: name the checkpoint by its digest, `name@sha256:...`";
            return Err(RegistryError::argument("reference", problem));
        };
        self.resolve(reference).await?;
        self.remove(digest).await
    }

    /// Takes a checkpoint out of the store unless something keeps it; its chunks are left to the
    /// collection.
    pub(crate) async fn remove(&self, digest: Digest) -> Result<(), RegistryError> {
        // Aliases move under this lock only, so none comes to point to it meanwhile.
        let _one_by_one = self.0.publishing.lock().await;
        let record = self.record_of(digest).await?;
        if let Some(problem) = self.kept_by(&record).await? {
            return Err(RegistryError::Kept {
                name: record.name,
                digest,
                problem,
            });
        }
        let manifest = manifest_key(digest);
        let keys = [
            manifest.clone(),
            digest_key(digest),
            card_key(digest),
            note_key(digest),
            signatures_key(digest),
            checkpoint_key(&record.name, record.sequence),
            published_key(record.sequence),
        ];
        let mut txn = Txn::new().when(Compare::Exists(manifest));
        txn.ops.extend(keys.into_iter().map(Op::delete));
        match self.0.leader.commit(txn).await? {
            Outcome::Committed(revision) => {
                tracing::info!(name = record.name, %digest, %revision, "checkpoint deleted");
                Ok(())
            }
            Outcome::Conflict => Err(RegistryError::NotFound {
                what: "checkpoint",
                name: digest.to_string(),
            }),
        }
    }

    async fn kept_by(&self, record: &CheckpointRecord) -> Result<Option<String>, RegistryError> {
        let aliases = self.aliases(&record.name).await?;
        if let Some(alias) = pointing(&aliases, record.digest).first() {
            return Ok(Some(format!(
                "alias `{}:{alias}` points to it; move or remove the alias first",
                record.name
            )));
        }
        let note = self.note(record.digest).await?;
        let keep = "it is marked to be kept; take that back first";
        Ok(note.keep.then(|| keep.to_owned()))
    }

    pub(super) async fn retention(
        &self,
        name: &str,
    ) -> Result<GetRetentionResponse, RegistryError> {
        if !name.is_empty() {
            check_name(name).map_err(|p| RegistryError::argument("name", p))?;
        }
        let own = self.policy(name).await?;
        let policy = match &own {
            Some(policy) => policy.clone(),
            None => self.policy("").await?.unwrap_or_default(),
        };
        Ok(GetRetentionResponse {
            retention: Some(policy.into()),
            own: own.is_some(),
        })
    }

    /// The policy of a name itself; of the empty name for those without one.
    pub(crate) async fn policy(&self, name: &str) -> Result<Option<Policy>, RegistryError> {
        let entry = self.store().get(&retention_key(name)).await?;
        entry.as_ref().map(decode).transpose()
    }

    pub(crate) async fn set_retention(
        &self,
        request: SetRetentionRequest,
    ) -> Result<(), RegistryError> {
        if !request.name.is_empty() {
            check_name(&request.name).map_err(|p| RegistryError::argument("name", p))?;
        }
        let key = retention_key(&request.name);
        let op = match request.retention {
            Some(retention) => {
                let policy = Policy::try_from(retention)
                    .map_err(|problem| RegistryError::argument("retention.best", problem))?;
                Op::put(&key, encode(&key, &policy)?)
            }
            None => Op::delete(&key),
        };
        // Unconditional: the last word counts.
        self.0.leader.commit(Txn::new().then(op)).await?;
        Ok(())
    }
}
