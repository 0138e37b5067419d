use std::collections::BTreeMap;
use std::fmt;

use espalier_job::{Device, Job};
use espalier_proto::v1;
use serde::{Deserialize, Serialize};

use super::State;
use crate::clock::timestamp;

/// Identity of a job: `j` and a number of eight or more digits, in the order of submits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobId(String);

impl JobId {
    /// An identity as the client wrote it. Whether there is such a job is for the store to say.
    pub fn new(id: impl Into<String>) -> Self {
        Self(id.into())
    }

    /// The identity of the n-th job.
    pub fn numbered(n: u64) -> Self {
        Self(format!("j{n:08}"))
    }

    /// Whether it can be part of a key.
    pub fn is_well_formed(&self) -> bool {
        (2..=32).contains(&self.0.len()) && self.0.bytes().all(|b| b.is_ascii_alphanumeric())
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A job as stored under `jobs/<id>`. The gang is stored beside it, see [`Gang`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Identity.
    pub job_id: JobId,
    /// The job file's `name`.
    pub name: String,
    /// Where it stands.
    pub state: State,
    /// Why it stands there.
    pub reason: String,
    /// The job file as submitted.
    pub spec_toml: String,
    /// What of it the coordinator acts on.
    pub demand: Demand,
    /// When it was accepted, milliseconds since 1970.
    pub created: u64,
    /// When it ended, milliseconds since 1970.
    pub ended: Option<u64>,
    /// Generation of the last gang that was released; 0 before.
    pub last_generation: u64,
    /// Workers of the last gang that was released, in the order of their ranks.
    pub last_workers: Vec<String>,
    /// Last step that is durable in a checkpoint.
    pub committed_step: u64,
    /// Steps of the whole job; 0 until a rank has told it.
    pub total_steps: u64,
    /// Last training checkpoint; empty before the first.
    pub checkpoint_digest: String,
    /// The published model; empty before.
    pub published_digest: String,
    /// Restarts spent after faults of processes, hosts and links.
    pub infrastructure_restarts: u32,
    /// What the ranks of the current gang have reported.
    pub ranks: BTreeMap<u32, RankPhase>,
    /// Where the ranks of the current gang meet, once rank 0 has told it.
    pub rendezvous: Option<String>,
}

/// What of a job file the coordinator acts on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Demand {
    /// Kind of device its ranks need.
    pub device: Device,
    /// Fewest workers it runs on.
    pub min_workers: u32,
    /// Most workers it takes.
    pub max_workers: u32,
    /// Ranks on each worker.
    pub ranks_per_worker: u32,
    /// Name under which the model is published.
    pub publish_name: String,
}

impl Demand {
    /// The demand of a job file.
    pub fn of(job: &Job) -> Self {
        Self {
            device: job.resources.device,
            min_workers: job.resources.workers.min,
            max_workers: job.resources.workers.max,
            ranks_per_worker: job.resources.ranks_per_worker.0,
            publish_name: job.publish.name.clone(),
        }
    }
}

/// What a rank has reported.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RankPhase {
    /// It has met its peers.
    Running,
    /// All its work is done.
    Done,
    /// It ended before its work was done.
    Failed {
        /// The job is to blame.
        user_fault: bool,
        /// What went wrong.
        reason: String,
    },
}

/// The workers that run a job, as stored under `gangs/<id>`. The revision of the transaction that
/// put it is the gang's generation, so a generation cannot be used twice, and a transaction that
/// compares the key's revision is fenced by the generation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gang {
    /// In the order of their ranks.
    pub members: Vec<Member>,
}

/// A worker's part in a gang.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// The worker.
    pub worker_id: String,
    /// Its process: another incarnation does not run these ranks.
    pub incarnation: String,
    /// Its first rank.
    pub first_rank: u32,
    /// Its number of ranks.
    pub rank_count: u32,
}

impl Record {
    /// A job that was just accepted.
    pub fn accepted(job_id: JobId, spec: &Job, spec_toml: String, now: u64) -> Self {
        Self {
            job_id,
            name: spec.name.clone(),
            demand: Demand::of(spec),
            state: State::Queued,
            reason: "accepted".to_owned(),
            spec_toml,
            created: now,
            ended: None,
            last_generation: 0,
            last_workers: Vec::new(),
            committed_step: 0,
            total_steps: 0,
            checkpoint_digest: String::new(),
            published_digest: String::new(),
            infrastructure_restarts: 0,
            ranks: BTreeMap::new(),
            rendezvous: None,
        }
    }
}

impl Gang {
    /// Number of ranks.
    pub fn world_size(&self) -> u32 {
        self.members.iter().map(|m| m.rank_count).sum()
    }

    /// Workers in the order of their ranks.
    pub fn worker_ids(&self) -> Vec<String> {
        self.members.iter().map(|m| m.worker_id.clone()).collect()
    }

    /// The part of a worker.
    pub fn member(&self, worker_id: &str) -> Option<&Member> {
        self.members.iter().find(|m| m.worker_id == worker_id)
    }
}

impl Member {
    /// Its ranks.
    pub fn ranks(&self) -> std::ops::Range<u32> {
        self.first_rank..self.first_rank + self.rank_count
    }
}

/// A job on the wire.
pub(crate) fn wire(record: &Record, gang: Option<&Gang>, generation: u64) -> v1::Job {
    v1::Job {
        job_id: record.job_id.to_string(),
        name: record.name.clone(),
        state: record.state.wire().into(),
        reason: record.reason.clone(),
        spec_toml: record.spec_toml.clone(),
        create_time: Some(timestamp(record.created)),
        end_time: record.ended.map(timestamp),
        generation,
        committed_step: record.committed_step,
        total_steps: record.total_steps,
        worker_ids: gang.map_or_else(|| record.last_workers.clone(), Gang::worker_ids),
        checkpoint_digest: record.checkpoint_digest.clone(),
        published_digest: record.published_digest.clone(),
        restarts: [("infrastructure", record.infrastructure_restarts)]
            .into_iter()
            .filter(|(_, spent)| *spent > 0)
            .map(|(cause, spent)| (cause.to_owned(), spent))
            .collect(),
    }
}
