//! What becomes of the gangs: a pure function of the time, the gangs and the workers, that gives its
//! reasons. A worker is lost when its lease has expired or another process of it has come; that its
//! session ended proves nothing, for its ranks step on.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::clock::Millis;
use crate::job::{Gang, JobId, Member, RankPhase, State};

/// How long things may take, and how often they are tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Time without a message after which a worker is lost.
    pub lease_ttl: Duration,
    /// Time from the placement until all ranks have met.
    pub start: Duration,
    /// Restarts after faults of processes, hosts and links.
    pub infrastructure_restarts: u32,
}

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
    /// Restarts spent.
    pub infrastructure_restarts: u32,
}

/// A worker as this process knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerView {
    /// Its process; `None` until it has registered with this coordinator process.
    pub incarnation: Option<String>,
    /// When it was last heard; when this coordinator started, before that.
    pub heard: Millis,
}

/// What to do with a job, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Every rank has met its peers.
    Run(String),
    /// Revoke the gang and go on from the last checkpoint.
    Restart(String),
    /// Revoke the gang; the job has failed.
    Fail(String),
    /// Its ranks have been told to stop: the cancel is complete.
    Stop,
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
    if let Some((rank, reason)) = failure(job, true) {
        return Some(Decision::Fail(format!("rank {rank}: {reason}")));
    }
    if let Some(cause) = loss(now, limits, job, workers) {
        return Some(restart(limits, job, &cause));
    }
    let world = job.gang.world_size();
    let joined = job.ranks.len() as u32;
    (job.state == State::Placing && joined == world)
        .then(|| Decision::Run(format!("all {world} ranks have met")))
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

/// Why the gang cannot go on, if so.
fn loss(
    now: Millis,
    limits: &Limits,
    job: &GangView,
    workers: &BTreeMap<String, WorkerView>,
) -> Option<String> {
    if let Some((rank, reason)) = failure(job, false) {
        return Some(format!("rank {rank}: {reason}"));
    }
    if let Some(cause) = job
        .gang
        .members
        .iter()
        .find_map(|m| member_loss(now, limits, job, m, workers))
    {
        return Some(cause);
    }
    let world = job.gang.world_size();
    let done = job
        .ranks
        .values()
        .filter(|p| **p == RankPhase::Done)
        .count();
    if done as u32 == world {
        return Some("all ranks ended, but no model was published".to_owned());
    }
    let waited = now.since(job.placed);
    (job.state == State::Placing && waited > limits.start).then(|| {
        format!(
            "{} of {world} ranks have met within {} s",
            job.ranks.len(),
            limits.start.as_secs()
        )
    })
}

fn member_loss(
    now: Millis,
    limits: &Limits,
    job: &GangView,
    member: &Member,
    workers: &BTreeMap<String, WorkerView>,
) -> Option<String> {
    let id = &member.worker_id;
    let Some(worker) = workers.get(id) else {
        return Some(format!("worker {id} is not known any more"));
    };
    if worker
        .incarnation
        .as_ref()
        .is_some_and(|found| *found != member.incarnation)
    {
        return Some(format!("worker {id} was restarted, which ended its ranks"));
    }
    let silence = now.since(worker.heard);
    if silence > limits.lease_ttl {
        return Some(format!(
            "worker {id} was not heard for {:.1} s (lease {:.1} s)",
            silence.as_secs_f64(),
            limits.lease_ttl.as_secs_f64()
        ));
    }
    let all_done = member
        .ranks()
        .all(|rank| job.ranks.get(&rank) == Some(&RankPhase::Done));
    job.absent
        .get(id)
        .filter(|since| !all_done && now.since(**since) > limits.lease_ttl)
        .map(|_| format!("worker {id} registered without the ranks it was running"))
}

fn failure(job: &GangView, wanted: bool) -> Option<(u32, &str)> {
    job.ranks.iter().find_map(|(rank, phase)| match phase {
        RankPhase::Failed { user_fault, reason } if *user_fault == wanted => {
            Some((*rank, reason.as_str()))
        }
        _ => None,
    })
}

/// Pause before a restart: doubles from 0.1 s up to 5 s, so that a fault that does not pass leaves
/// time to be seen before the budget is spent.
pub fn pause(restarts: u32) -> Duration {
    let doublings = restarts.saturating_sub(1).min(6);
    Duration::from_millis(100 << doublings).min(Duration::from_secs(5))
}

#[cfg(test)]
mod tests;
