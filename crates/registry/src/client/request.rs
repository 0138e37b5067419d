use std::collections::BTreeMap;

use espalier_proto::v1::StepCommit;

use crate::{Digest, Kind, Lineage, SecretKey};

/// How a pushed folder is published. Its `report.json`, if there is one, goes into the manifest.
#[derive(Clone, Debug)]
pub struct PublishRequest {
    /// Name.
    pub name: String,
    /// What it is for.
    pub kind: Kind,
    /// Alias to move.
    pub alias: Option<Alias>,
    /// Where it comes from.
    pub lineage: Lineage,
    /// Steps that it makes durable, when a job's rank publishes.
    pub commit: Option<StepCommit>,
    /// Id of this publish, of at most 128 letters, digits, `-`, `_` and `.`: repeats with the same id and content are answered
    /// alike. One is made up when it is not set; set it to repeat a push after a restart.
    pub request_id: Option<String>,
    /// Who pushes, for the alias's history; nobody checks it.
    pub actor: String,
    /// First labels of the checkpoint.
    pub labels: BTreeMap<String, String>,
    /// Move the alias even if it is protected.
    pub force: bool,
    /// Signs the checkpoint.
    pub sign: Option<SecretKey>,
}

/// A move of an alias.
#[derive(Clone, Debug)]
pub struct Alias {
    /// The alias.
    pub name: String,
    /// What it must be before.
    pub expected: Expected,
    /// Why, for its history.
    pub reason: String,
}

/// What an alias must be before it is moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Expected {
    /// Whatever it is.
    #[default]
    Any,
    /// Not there.
    Absent,
    /// This checkpoint.
    Digest(Digest),
}

impl PublishRequest {
    /// A publish without alias, lineage or commit.
    pub fn new(name: impl Into<String>, kind: Kind) -> Self {
        Self {
            name: name.into(),
            kind,
            alias: None,
            lineage: Lineage::default(),
            commit: None,
            request_id: None,
            actor: String::new(),
            labels: BTreeMap::new(),
            force: false,
            sign: None,
        }
    }
}
