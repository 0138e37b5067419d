//! What becomes of the gangs: a pure function of the time, the gangs and the workers, that gives its
//! reasons. A worker is lost when its lease has expired or another process of it has come; that its
//! session ended proves nothing, for its ranks step on, unless their peers say that they are gone.
//!
//! What is lost of a gang is left behind: the survivors, who hold the state of the job in memory, go on
//! under a new generation. Below the job's fewest workers they wait for recruits; only when nobody holds
//! a state does the job go back to its last checkpoint.

mod losses;
mod next;
mod partings;

use std::collections::BTreeMap;
use std::time::Duration;

use crate::clock::Millis;
use crate::job::{Formation, Gang, JobId, RankPhase, Recruit, State};
pub(crate) use losses::worker_loss;
use losses::{losses, parted};
use next::Next;
pub use partings::shrink;
use partings::{left, shift};

/// How long things may take, and how often they are tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Time without a message after which a worker is lost.
    pub lease_ttl: Duration,
    /// Time from the placement until all ranks have met.
    pub start: Duration,
    /// Restarts from a checkpoint after faults of processes, hosts and links.
    pub infrastructure_restarts: u32,
    /// Recoveries in memory within [`RECENT`]; one more is a restart from a checkpoint.
    pub recoveries: u32,
    /// Time that survivors wait for recruits before the job goes back to its checkpoint.
    pub hold: Duration,
    /// Time that a gang which is to leave its workers has for the step it is in and its checkpoint.
    pub leave: Duration,
}

/// How long a recovery counts against the budget: a job of weeks survives any number of them that do not
/// come in a burst.
pub const RECENT: Duration = Duration::from_secs(600);

/// Time without a session after which a worker's ranks are lost if their peers say so.
const DETACHED: Duration = Duration::from_secs(1);

/// A job that has a gang, or is being cancelled.
#[derive(Clone, Debug)]
pub struct GangView {
    /// The job.
    pub job_id: JobId,
    /// Where it stands.
    pub state: State,
    /// Its gang.
    pub gang: Gang,
    /// What the ranks have reported.
    pub ranks: BTreeMap<u32, RankPhase>,
    /// When the gang was placed, or first seen by this process.
    pub placed: Millis,
    /// Workers of the gang that registered without its ranks, and when.
    pub absent: BTreeMap<String, Millis>,
    /// Since when ranks wait for another generation, if any does.
    pub waiting: Option<Millis>,
    /// Ranks that do not come to their peers, and why that is certain.
    pub stalled: BTreeMap<u32, String>,
    /// Processes that prepare to join.
    pub recruits: Vec<Recruit>,
    /// Fewest workers that the job runs on.
    pub min_workers: u32,
    /// Restarts spent.
    pub infrastructure_restarts: u32,
    /// Recoveries within [`RECENT`].
    pub recent_recoveries: u32,
    /// How long ago the gang was told to leave its workers, if it was.
    pub leaves: Option<Duration>,
    /// Workers that it goes on without as soon as it can, and why.
    pub let_go: BTreeMap<String, String>,
}

impl GangView {
    /// A rank has done its last step.
    pub fn ends(&self) -> bool {
        self.ranks.values().any(|phase| *phase == RankPhase::Done)
    }
}

#[cfg(test)]
impl GangView {
    /// A job of one worker at least, with no gang yet.
    pub(crate) fn empty(job_id: JobId, state: State) -> Self {
        Self {
            job_id,
            state,
            gang: Gang {
                members: Vec::new(),
                formation: Formation::Fresh,
                since: 0,
                reason: String::new(),
            },
            ranks: BTreeMap::new(),
            placed: Millis(0),
            absent: BTreeMap::new(),
            waiting: None,
            stalled: BTreeMap::new(),
            recruits: Vec::new(),
            min_workers: 1,
            infrastructure_restarts: 0,
            recent_recoveries: 0,
            leaves: None,
            let_go: BTreeMap::new(),
        }
    }
}

/// A worker as this process knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerView {
    /// Its process; `None` until it has registered with this coordinator process.
    pub incarnation: Option<String>,
    /// When it was last heard; when this coordinator started, before that.
    pub heard: Millis,
    /// Since when it has no session, if it has had one with this coordinator process.
    pub detached: Option<Millis>,
}

/// What to do with a job, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Every rank has met its peers.
    Run(String),
    /// Go on with these processes under a new generation.
    Regroup(Regroup),
    /// Revoke the gang and go on from the last checkpoint.
    Restart(String),
    /// Revoke the gang, which was to leave its workers, and has or is out of time: how, if there is
    /// something to tell.
    Leave(String),
    /// Revoke the gang; the job has failed.
    Fail(String),
    /// Its ranks have been told to stop: the cancel is complete.
    Stop,
}

/// A new generation of processes that run already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Regroup {
    /// Who they are; what they go back to is for whoever puts it.
    pub gang: Gang,
    /// What was lost; empty when nothing was.
    pub cause: String,
    /// Of their ranks, those that are new.
    pub recruits: u32,
    /// Why, in words.
    pub reason: String,
}

/// What to do with a job now; `None` leaves it as it is.
pub fn decide(
    now: Millis,
    limits: &Limits,
    job: &GangView,
    workers: &BTreeMap<String, WorkerView>,
) -> Option<Decision> {
    if job.state == State::Cancelling {
        return Some(Decision::Stop);
    }
    if let Some((rank, reason)) = user_fault(job) {
        return Some(Decision::Fail(format!("rank {rank}: {reason}")));
    }
    if let Some(how) = left(limits, job) {
        return Some(Decision::Leave(how));
    }
    let lost = losses(now, limits, job, workers);
    if job.state == State::Publishing {
        // The others' work is done: rank 0 alone measures and publishes.
        return lost
            .get(&0)
            .cloned()
            .or_else(|| all_done(job))
            .map(|cause| restart(limits, job, &cause));
    }
    if !lost.is_empty() {
        let cause = told(&lost);
        let next = Next::of(job, &lost, |r| fit(now, limits, r, workers));
        return Some(survive(limits, job, next, cause));
    }
    if let Some(cause) = all_done(job) {
        return Some(restart(limits, job, &cause));
    }
    if let Some(since) = job.waiting
        && now.since(since) > limits.lease_ttl + DETACHED
    {
        // Whatever parted them has had the time to show itself: all of them are still there.
        let cause = told(&parted(job));
        let next = Next::of(job, &BTreeMap::new(), |r| fit(now, limits, r, workers));
        return Some(survive(limits, job, next, cause));
    }
    if job.gang.formation == Formation::Held {
        return held(now, limits, job, workers);
    }
    let world = job.gang.world_size();
    let joined = running(job).count() as u32;
    if joined < world {
        return None;
    }
    if matches!(job.state, State::Placing | State::Recovering) {
        return Some(Decision::Run(format!("all {world} ranks have met")));
    }
    shift(now, limits, job, workers).or_else(|| grow(now, limits, job, workers))
}

/// Ready recruits join at the next step, if there is one.
fn grow(
    now: Millis,
    limits: &Limits,
    job: &GangView,
    workers: &BTreeMap<String, WorkerView>,
) -> Option<Decision> {
    if job.ends() {
        return None;
    }
    let next = Next::of(job, &BTreeMap::new(), |r| fit(now, limits, r, workers));
    let all_ready = job.recruits.iter().all(|recruit| recruit.ready);
    (next.recruits > 0 && all_ready).then(|| {
        let reason = format!("{} of {} ranks join", next.recruits, next.world_size());
        next.regroup(Formation::Planned, String::new(), reason)
    })
}

/// Survivors that were too few: go on with recruits once there are enough, or give up waiting.
fn held(
    now: Millis,
    limits: &Limits,
    job: &GangView,
    workers: &BTreeMap<String, WorkerView>,
) -> Option<Decision> {
    let next = Next::of(job, &BTreeMap::new(), |r| fit(now, limits, r, workers));
    if next.workers() >= job.min_workers {
        let reason = format!(
            "{} survivors and {} recruits go on",
            next.world_size() - next.recruits,
            next.recruits
        );
        return Some(next.regroup(Formation::Survivors, String::new(), reason));
    }
    (now.since(job.placed) > limits.hold).then(|| {
        let cause = format!(
            "{} of {} workers were there for {} s",
            next.workers(),
            job.min_workers,
            limits.hold.as_secs()
        );
        restart(limits, job, &cause)
    })
}

/// Causes in words, each once.
fn told(causes: &BTreeMap<u32, String>) -> String {
    let mut causes: Vec<&str> = causes.values().map(String::as_str).collect();
    causes.dedup();
    causes.join("; ")
}

/// What becomes of a gang of which these processes are left.
fn survive(limits: &Limits, job: &GangView, next: Next, cause: String) -> Decision {
    if !next.holds() {
        return restart(limits, job, &cause);
    }
    if job.recent_recoveries >= limits.recoveries {
        let cause = format!(
            "{cause}; {} recoveries in {} min are too many",
            limits.recoveries,
            RECENT.as_secs() / 60
        );
        return restart(limits, job, &cause);
    }
    let (formation, then) = if next.workers() >= job.min_workers {
        (Formation::Survivors, "go on".to_owned())
    } else {
        let then = format!("wait for others: the job needs {} workers", job.min_workers);
        (Formation::Held, then)
    };
    let survivors = next.world_size() - next.recruits;
    let reason = match next.recruits {
        0 => format!(
            "{cause}; {survivors} of {} ranks {then}",
            job.gang.world_size()
        ),
        recruits => format!("{cause}; {survivors} ranks and {recruits} recruits {then}"),
    };
    next.regroup(formation, cause, reason)
}

fn restart(limits: &Limits, job: &GangView, cause: &str) -> Decision {
    let spent = job.infrastructure_restarts;
    let budget = limits.infrastructure_restarts;
    if spent >= budget {
        Decision::Fail(format!("{cause}; all {budget} restarts are spent"))
    } else {
        Decision::Restart(format!("{cause}; restart {} of {budget}", spent + 1))
    }
}

/// Whether a recruit's worker is there.
fn fit(
    now: Millis,
    limits: &Limits,
    recruit: &Recruit,
    workers: &BTreeMap<String, WorkerView>,
) -> bool {
    worker_loss(
        now,
        limits,
        &recruit.worker_id,
        &recruit.incarnation,
        workers,
    )
    .is_none()
}

fn running(job: &GangView) -> impl Iterator<Item = u32> {
    job.ranks
        .iter()
        .filter(|(_, phase)| {
            matches!(
                phase,
                RankPhase::Running | RankPhase::Halted | RankPhase::Done
            )
        })
        .map(|(rank, _)| *rank)
}

fn all_done(job: &GangView) -> Option<String> {
    let done = job.ranks.values().filter(|p| **p == RankPhase::Done);
    (done.count() as u32 == job.gang.world_size())
        .then(|| "all ranks ended, but no model was published".to_owned())
}

/// A fault of the job itself, if a rank has told of one.
fn user_fault(job: &GangView) -> Option<(u32, &str)> {
    job.ranks.iter().find_map(|(rank, phase)| match phase {
        RankPhase::Failed {
            user_fault: true,
            reason,
        } => Some((*rank, reason.as_str())),
        _ => None,
    })
}

/// Pause before another recruit: doubles from 0.1 s up to about 7 min, for a gang at work can do without.
pub fn recruit_pause(failed: u32) -> Duration {
    Duration::from_millis(100 << failed.saturating_sub(1).min(12))
}

/// Pause before a restart: doubles from 0.1 s up to 5 s, so that a fault that does not pass leaves
/// time to be seen before the budget is spent.
pub fn pause(restarts: u32) -> Duration {
    let doublings = restarts.saturating_sub(1).min(6);
    Duration::from_millis(100 << doublings).min(Duration::from_secs(5))
}

#[cfg(test)]
mod tests;
