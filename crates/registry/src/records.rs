//! What the registry keeps in the store, and under which keys.

use std::collections::BTreeMap;

use espalier_proto::v1::{AliasMove, Checkpoint};
use espalier_store::Entry;
use prost_types::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::{Digest, Kind, RegistryError};

/// A published checkpoint; written once.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct CheckpointRecord {
    /// Over all checkpoints, from 1.
    pub(crate) sequence: u64,
    pub(crate) name: String,
    pub(crate) digest: Digest,
    pub(crate) kind: Kind,
    pub(crate) size: u64,
    pub(crate) job: Option<String>,
    pub(crate) step: Option<u64>,
    pub(crate) parent: Option<Digest>,
    pub(crate) teacher: Option<Digest>,
    /// Milliseconds since 1970.
    pub(crate) created_ms: i64,
}

/// What people say of a checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NoteRecord {
    pub(crate) labels: BTreeMap<String, String>,
    /// Neither retention nor a delete takes it away.
    pub(crate) keep: bool,
}

/// Where an alias points.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct AliasRecord {
    /// None once it was removed.
    pub(crate) digest: Option<Digest>,
    /// Of the move that put it there, from 1.
    pub(crate) sequence: u64,
    /// Only a forced change moves it.
    pub(crate) protected: bool,
}

/// A move of an alias; written once.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct MoveRecord {
    pub(crate) sequence: u64,
    /// Milliseconds since 1970.
    pub(crate) time_ms: i64,
    pub(crate) from: Option<Digest>,
    /// None when it was removed.
    pub(crate) to: Option<Digest>,
    pub(crate) reason: String,
    pub(crate) job: Option<String>,
    /// As the client said.
    pub(crate) actor: String,
}

/// A chunk that nothing referred to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tombstone {
    /// Of the collection that found it.
    pub(crate) epoch: u64,
    /// Milliseconds since 1970.
    pub(crate) since_ms: i64,
}

/// The answer to a request that was carried out.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct PublishRecord {
    /// Of the request, by which a repeat is told from another.
    pub(crate) request: Digest,
    pub(crate) digest: Digest,
    pub(crate) alias_kept: bool,
    /// Milliseconds since 1970.
    pub(crate) time_ms: i64,
}

impl CheckpointRecord {
    pub(crate) fn to_proto(&self, aliases: Vec<String>, note: NoteRecord) -> Checkpoint {
        let or_empty = |digest: Option<Digest>| digest.map(|d| d.to_string()).unwrap_or_default();
        Checkpoint {
            name: self.name.clone(),
            digest: self.digest.to_string(),
            aliases,
            create_time: Some(timestamp(self.created_ms)),
            size: self.size,
            kind: self.kind.as_str().to_owned(),
            job_id: self.job.clone().unwrap_or_default(),
            step: self.step.unwrap_or_default(),
            parent: or_empty(self.parent),
            teacher: or_empty(self.teacher),
            labels: note.labels.into_iter().collect(),
            keep: note.keep,
        }
    }
}

impl MoveRecord {
    pub(crate) fn to_proto(&self) -> AliasMove {
        AliasMove {
            sequence: self.sequence,
            time: Some(timestamp(self.time_ms)),
            from_digest: self.from.map(|d| d.to_string()).unwrap_or_default(),
            to_digest: self.to.map(|d| d.to_string()).unwrap_or_default(),
            reason: self.reason.clone(),
            job_id: self.job.clone().unwrap_or_default(),
            actor: self.actor.clone(),
        }
    }
}

fn timestamp(millis: i64) -> Timestamp {
    Timestamp {
        seconds: millis.div_euclid(1000),
        nanos: i32::try_from(millis.rem_euclid(1000) * 1_000_000).unwrap_or_default(),
    }
}

/// Prefix of all manifests.
pub(crate) const MANIFESTS: &str = "manifests/";

/// The manifest, byte for byte.
pub(crate) fn manifest_key(digest: Digest) -> String {
    format!("{MANIFESTS}{digest}")
}

/// Every checkpoint, in the order of publication.
pub(crate) const PUBLISHED: &str = "published/";

/// [`CheckpointRecord`].
pub(crate) fn published_key(sequence: u64) -> String {
    format!("{PUBLISHED}{sequence:020}")
}

/// [`CheckpointRecord`]s of a name, in the order of publication.
pub(crate) fn checkpoints_prefix(name: &str) -> String {
    format!("checkpoints/{name}/")
}

/// [`CheckpointRecord`].
pub(crate) fn checkpoint_key(name: &str, sequence: u64) -> String {
    format!("{}{sequence:020}", checkpoints_prefix(name))
}

/// Key of the checkpoint's [`CheckpointRecord`].
pub(crate) fn digest_key(digest: Digest) -> String {
    format!("digests/{digest}")
}

/// The report card, for searching.
pub(crate) fn card_key(digest: Digest) -> String {
    format!("cards/{digest}")
}

/// [`NoteRecord`].
pub(crate) fn note_key(digest: Digest) -> String {
    format!("notes/{digest}")
}

/// Signatures of a checkpoint, as a list of [`crate::signing::Signed`].
pub(crate) fn signatures_key(digest: Digest) -> String {
    format!("signatures/{digest}")
}

/// Prefix of all [`Tombstone`]s.
pub(crate) const TOMBSTONES: &str = "tombstones/";

/// [`Tombstone`].
pub(crate) fn tombstone_key(digest: Digest) -> String {
    format!("{TOMBSTONES}{digest}")
}

/// Number of the last collection.
pub(crate) const EPOCH: &str = "collections/epoch";

/// [`crate::gc::Policy`] of a name, or of those without one.
pub(crate) fn retention_key(name: &str) -> String {
    format!("retention/{}", if name.is_empty() { "*" } else { name })
}

/// Prefix of all [`AliasRecord`]s.
pub(crate) const ALIASES: &str = "aliases/";

/// [`AliasRecord`]s of a name.
pub(crate) fn aliases_prefix(name: &str) -> String {
    format!("{ALIASES}{name}/")
}

/// [`AliasRecord`].
pub(crate) fn alias_key(name: &str, alias: &str) -> String {
    format!("{}{alias}", aliases_prefix(name))
}

/// [`MoveRecord`]s of an alias, oldest first.
pub(crate) fn history_prefix(name: &str, alias: &str) -> String {
    format!("alias-history/{name}/{alias}/")
}

/// [`MoveRecord`].
pub(crate) fn history_key(name: &str, alias: &str, sequence: u64) -> String {
    format!("{}{sequence:020}", history_prefix(name, alias))
}

/// Prefix of all [`PublishRecord`]s.
pub(crate) const PUBLISHES: &str = "publishes/";

/// [`PublishRecord`].
pub(crate) fn publish_key(request_id: &str) -> String {
    format!("{PUBLISHES}{request_id}")
}

pub(crate) fn decode<T: DeserializeOwned>(entry: &Entry) -> Result<T, RegistryError> {
    serde_json::from_slice(&entry.value).map_err(|e| RegistryError::Record {
        key: entry.key.clone(),
        problem: e.to_string(),
    })
}

pub(crate) fn encode<T: Serialize>(key: &str, record: &T) -> Result<Vec<u8>, RegistryError> {
    serde_json::to_vec(record).map_err(|e| RegistryError::Record {
        key: key.to_owned(),
        problem: e.to_string(),
    })
}
