//! What placing depends on, and what comes of it.

use std::collections::BTreeMap;
use std::time::Duration;

use espalier_job::Device;

use crate::clock::Millis;
use crate::job::JobId;
use crate::queue::Queue;

/// All that placing depends on.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// The queues that an operator has set; another has a weight of 1 and no quota.
    pub queues: BTreeMap<String, Queue>,
    /// Jobs without a gang, in any order.
    pub waiting: Vec<Waiting>,
    /// Jobs with a gang.
    pub gangs: Vec<Running>,
    /// Workers that take new ranks.
    pub workers: Vec<Candidate>,
}

/// A job without a gang.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// The job.
    pub job_id: JobId,
    /// Its queue.
    pub queue: String,
    /// In its queue the higher one goes first.
    pub priority: i32,
    /// It has had a gang and recovers: it goes before those of its priority that have not.
    pub recovers: bool,
    /// When it was submitted, milliseconds since 1970.
    pub submitted: u64,
    /// Kind of device its ranks need.
    pub device: Device,
    /// Fewest workers it runs on, at least 1.
    pub min_workers: u32,
    /// Most workers it takes, at least `min_workers`.
    pub max_workers: u32,
    /// Ranks on each worker, at least 1.
    pub ranks_per_worker: u32,
    /// Not placed before this time (pause between restarts).
    pub not_before: Millis,
}

impl Waiting {
    /// Slots without which it does not run.
    pub(super) fn least(&self) -> u64 {
        u64::from(self.min_workers) * u64::from(self.ranks_per_worker)
    }
}

/// A job with a gang.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    /// The job.
    pub job_id: JobId,
    /// Its queue.
    pub queue: String,
    /// Its priority.
    pub priority: i32,
    /// Kind of its devices.
    pub device: Device,
    /// Fewest workers it runs on.
    pub min_workers: u32,
    /// What it has on each worker; the first has rank 0.
    pub parts: Vec<Part>,
    /// What those take that prepare to join it.
    pub recruits: Vec<Part>,
    /// It was told to leave, and does so within a deadline.
    pub leaves: bool,
    /// It can go on without some of its workers: its ranks step, and have not come to the end.
    pub shrinks: bool,
    /// It can be sent back to the queue.
    pub evicts: bool,
    /// It was evicted lately, and is left alone for a while, but by a job that it has passed.
    pub spared: bool,
    /// Since its last durable step.
    pub undurable: Duration,
    /// The job ahead of it that was waiting when it was placed.
    pub guest_of: Option<JobId>,
}

/// Slots of a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The worker.
    pub worker_id: String,
    /// How many.
    pub slots: u32,
}

/// A worker that takes new ranks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The worker.
    pub worker_id: String,
    /// Kind of its devices.
    pub device: Device,
    /// Ranks it can run at a time.
    pub slots: u32,
    /// Ranks it can still take.
    pub free: u32,
}

/// What happens to a waiting job, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Start its gang.
    Place(Place),
    /// Take slots from others for it. Where none of them is evicted it starts in the same moment; otherwise
    /// those that only shrink are left as they are until the others have gone.
    Preempt {
        /// The job.
        job_id: JobId,
        /// From whom; never empty.
        takes: Vec<Take>,
        /// Its gang; none if others have to leave first.
        place: Option<Place>,
        /// What it waits for then.
        reason: String,
    },
    /// Go on waiting.
    Wait {
        /// The job.
        job_id: JobId,
        /// What it waits for.
        reason: String,
    },
}

/// A gang to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The job.
    pub job_id: JobId,
    /// Workers in the order of their ranks, each with the job's `ranks_per_worker` ranks.
    pub workers: Vec<String>,
    /// The job ahead of it that could use one of these workers and waits: it may be evicted for it.
    pub guest_of: Option<JobId>,
    /// Why these.
    pub reason: String,
}

/// What is taken from a gang, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Take {
    /// It goes on without these workers.
    Shrink {
        /// Its job.
        job_id: JobId,
        /// The workers that it loses.
        workers: Vec<String>,
        /// Why.
        reason: String,
    },
    /// It goes back to the queue, after a checkpoint.
    Evict {
        /// Its job.
        job_id: JobId,
        /// Why.
        reason: String,
    },
}

/// Kinds of devices, as indices.
pub(super) const KINDS: usize = 2;

/// The index of a kind.
pub(super) fn kind(device: Device) -> usize {
    match device {
        Device::Cpu => 0,
        Device::Cuda => 1,
    }
}
