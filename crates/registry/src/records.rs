//! What the registry keeps in the store, and under which keys.

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
    /// Milliseconds since 1970.
    pub(crate) created_ms: i64,
}

/// Where an alias points.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct AliasRecord {
    pub(crate) digest: Digest,
    /// Of the move that put it there, from 1.
    pub(crate) sequence: u64,
}

/// A move of an alias; written once.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct MoveRecord {
    pub(crate) sequence: u64,
    /// Milliseconds since 1970.
    pub(crate) time_ms: i64,
    pub(crate) from: Option<Digest>,
    pub(crate) to: Digest,
    pub(crate) reason: String,
    pub(crate) job: Option<String>,
}

/// The answer to a request that was carried out.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct PublishRecord {
    /// Of the request, by which a repeat is told from another.
    pub(crate) request: Digest,
    pub(crate) digest: Digest,
}

impl CheckpointRecord {
    pub(crate) fn to_proto(&self, aliases: Vec<String>) -> Checkpoint {
        Checkpoint {
            name: self.name.clone(),
            digest: self.digest.to_string(),
            aliases,
            create_time: Some(timestamp(self.created_ms)),
            size: self.size,
            kind: self.kind.as_str().to_owned(),
            job_id: self.job.clone().unwrap_or_default(),
            step: self.step.unwrap_or_default(),
        }
    }
}

impl MoveRecord {
    pub(crate) fn to_proto(&self) -> AliasMove {
        AliasMove {
            sequence: self.sequence,
            time: Some(timestamp(self.time_ms)),
            from_digest: self.from.map(|d| d.to_string()).unwrap_or_default(),
            to_digest: self.to.to_string(),
            reason: self.reason.clone(),
            job_id: self.job.clone().unwrap_or_default(),
        }
    }
}

fn timestamp(millis: i64) -> Timestamp {
    Timestamp {
        seconds: millis.div_euclid(1000),
        nanos: i32::try_from(millis.rem_euclid(1000) * 1_000_000).unwrap_or_default(),
    }
}

/// The manifest, byte for byte.
pub(crate) fn manifest_key(digest: Digest) -> String {
    format!("manifests/{digest}")
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

/// [`AliasRecord`]s of a name.
pub(crate) fn aliases_prefix(name: &str) -> String {
    format!("aliases/{name}/")
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

/// [`PublishRecord`].
pub(crate) fn publish_key(request_id: &str) -> String {
    format!("publishes/{request_id}")
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
