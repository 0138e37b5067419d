use std::collections::BTreeMap;
use std::fmt;

use espalier_job::{Device, Job, Straggler};
use espalier_proto::v1;
use serde::{Deserialize, Serialize};

use super::State;
use crate::clock::timestamp;
use crate::membership::RECENT;
use crate::queue;

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
    /// Seats given so far: a seat is a process of the job.
    #[serde(default)]
    pub seats: u64,
    /// Processes that prepare to join the gang.
    #[serde(default)]
    pub recruits: Vec<Recruit>,
    /// Recoveries in memory so far.
    #[serde(default)]
    pub recoveries: u32,
    /// When those that still count against the budget began, milliseconds since 1970.
    #[serde(default)]
    pub recent_recoveries: Vec<u64>,
    /// The recovery that is under way.
    #[serde(default)]
    pub recovery: Option<Recovery>,
    /// The last one that was completed, in words; empty before.
    #[serde(default)]
    pub last_recovery: String,
    /// Its gang was told to leave its workers, and has not yet.
    #[serde(default)]
    pub leave: Option<Leave>,
    /// How often its gang was evicted.
    #[serde(default)]
    pub evictions: u32,
    /// The job ahead of it that was waiting when its gang was placed.
    #[serde(default)]
    pub guest_of: Option<JobId>,
}

/// What a gang was told to do: finish the step, hand over a checkpoint, and leave its workers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Leave {
    /// What becomes of the job then.
    pub then: Then,
    /// Why, in words.
    pub reason: String,
    /// Since when, milliseconds since 1970.
    pub since: u64,
}

/// What becomes of a job whose gang has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Then {
    /// It waits until it is resumed.
    Paused,
    /// It goes back to its place in the queue.
    Queued,
}

/// A recovery in memory that is under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recovery {
    /// What was lost.
    pub cause: String,
    /// When that was seen, milliseconds since 1970.
    pub detected: u64,
    /// When the last new generation was committed, milliseconds since 1970; none while the survivors wait.
    pub regrouped: Option<u64>,
    /// Ranks that go on.
    pub survivors: u32,
    /// Ranks that join them at once.
    pub recruits: u32,
}

/// A process that prepares to join a gang.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recruit {
    /// Its seat.
    pub seat: u64,
    /// The worker.
    pub worker_id: String,
    /// The worker's process.
    pub incarnation: String,
    /// It can join.
    pub ready: bool,
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
    /// Its queue.
    #[serde(default = "default_queue")]
    pub queue: String,
    /// Its priority in the queue.
    #[serde(default)]
    pub priority: i32,
    /// What becomes of a rank that is slow for long.
    #[serde(default)]
    pub straggler: Straggler,
}

fn default_queue() -> String {
    queue::DEFAULT.to_owned()
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
            queue: job.resources.queue.clone(),
            priority: job.resources.priority.0,
            straggler: job.resources.straggler,
        }
    }
}

/// What a rank has reported.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RankPhase {
    /// It has met its peers.
    Running,
    /// It lost its peers, and waits with its state for a new generation.
    Waiting {
        /// What it saw.
        reason: String,
        /// It had the state of its peers when it lost them.
        holds: bool,
    },
    /// It runs no further step, and what it has done is durable; rank 0 says so for all.
    Halted,
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
    /// How it came about.
    pub formation: Formation,
    /// Generation of the processes that it goes back to: what they measured since is the job's. 0 stands
    /// for its own.
    pub since: u64,
    /// Why, in words.
    pub reason: String,
}

/// How a generation comes about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Formation {
    /// Processes are started, and begin with the checkpoint.
    Fresh,
    /// Part of the gang before was lost.
    Survivors,
    /// Recruits joined, or some have left, without a loss.
    Planned,
    /// Part of the gang before was lost, and the survivors are too few: they wait.
    Held,
}

impl Formation {
    /// On the wire.
    pub fn wire(self) -> v1::Formation {
        match self {
            Self::Fresh => v1::Formation::Fresh,
            Self::Survivors => v1::Formation::Survivors,
            Self::Planned => v1::Formation::Planned,
            Self::Held => v1::Formation::Held,
        }
    }
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
    /// Its processes, in the order of their ranks.
    pub seats: Vec<Seat>,
}

/// A process of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seat {
    /// Its number in the job.
    pub id: u64,
    /// It had a state of the job in memory when the generation began.
    pub holds: bool,
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
            seats: 0,
            recruits: Vec::new(),
            recoveries: 0,
            recent_recoveries: Vec::new(),
            recovery: None,
            last_recovery: String::new(),
            leave: None,
            evictions: 0,
            guest_of: None,
        }
    }
}

impl Record {
    /// Recoveries that count against the budget at a wall time.
    pub fn recent(&self, wall: u64) -> impl Iterator<Item = u64> {
        let since = wall.saturating_sub(RECENT.as_millis() as u64);
        let times = self.recent_recoveries.iter().copied();
        times.filter(move |at| *at > since)
    }
}

impl Gang {
    /// Number of ranks.
    pub fn world_size(&self) -> u32 {
        self.members.iter().map(|m| m.seats.len() as u32).sum()
    }

    /// Workers in the order of their ranks.
    pub fn worker_ids(&self) -> Vec<String> {
        self.members.iter().map(|m| m.worker_id.clone()).collect()
    }

    /// The part of a worker.
    pub fn member(&self, worker_id: &str) -> Option<&Member> {
        self.members.iter().find(|m| m.worker_id == worker_id)
    }

    /// Every rank with its worker and its seat.
    pub fn ranks(&self) -> impl Iterator<Item = (u32, &Member, Seat)> {
        self.members.iter().flat_map(|member| {
            member
                .ranks()
                .zip(&member.seats)
                .map(move |(r, s)| (r, member, *s))
        })
    }

    /// The rank of a seat on a worker.
    pub fn rank_of(&self, worker_id: &str, seat: u64) -> Option<u32> {
        self.ranks()
            .find(|(_, member, known)| member.worker_id == worker_id && known.id == seat)
            .map(|(rank, ..)| rank)
    }
}

impl Member {
    /// Its ranks.
    pub fn ranks(&self) -> std::ops::Range<u32> {
        self.first_rank..self.first_rank + self.seats.len() as u32
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
        restarts: [
            ("infrastructure", record.infrastructure_restarts),
            ("eviction", record.evictions),
        ]
        .into_iter()
        .filter(|(_, spent)| *spent > 0)
        .map(|(cause, spent)| (cause.to_owned(), spent))
        .collect(),
        recoveries: record.recoveries,
        last_recovery: record.last_recovery.clone(),
        queue: record.demand.queue.clone(),
        priority: record.demand.priority,
    }
}
