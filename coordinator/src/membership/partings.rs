//! Who leaves without having been lost.

use std::collections::{BTreeMap, BTreeSet};

use super::next::Next;
use super::{Decision, GangView, Limits, Regroup, WorkerView, fit, running};
use crate::clock::Millis;
use crate::job::{Formation, RankPhase, State};

/// Whether a gang that was told to leave its workers has nothing more to do there, and what there is to
/// tell of it.
pub(super) fn left(limits: &Limits, job: &GangView) -> Option<String> {
    let since = job.leaves.filter(|_| job.state != State::Publishing)?;
    if job.state == State::Placing || job.ranks.get(&0) == Some(&RankPhase::Halted) {
        return Some(String::new());
    }
    if job.gang.formation == Formation::Held {
        return Some("its survivors were too few for a checkpoint".to_owned());
    }
    (since > limits.leave).then(|| {
        let limit = limits.leave.as_secs();
        format!("its checkpoint did not come within {limit} s, the last one counts")
    })
}

/// The gang goes on without the workers that are to be let go, together with those that are ready to take
/// their places, as soon as that makes enough.
pub(super) fn shift(
    now: Millis,
    limits: &Limits,
    job: &GangView,
    workers: &BTreeMap<String, WorkerView>,
) -> Option<Decision> {
    let going = job.gang.members.iter().map(|member| &member.worker_id);
    let going: BTreeSet<&String> = going.filter(|id| job.let_go.contains_key(*id)).collect();
    if going.is_empty() || job.ends() || job.leaves.is_some() {
        return None;
    }
    let next = Next::of(job, &ranks_of(job, &going), |recruit| {
        !job.let_go.contains_key(&recruit.worker_id) && fit(now, limits, recruit, workers)
    });
    if next.workers() < job.min_workers || !next.holds() {
        return None;
    }
    let why: Vec<&str> = going.iter().map(|id| job.let_go[*id].as_str()).collect();
    let reason = format!(
        "{}; {} ranks go on, {} of them new",
        why.join("; "),
        next.world_size(),
        next.recruits
    );
    Some(next.regroup(Formation::Planned, String::new(), reason))
}

/// The generation of a gang that gives up these workers; none if it cannot now.
pub fn shrink(job: &GangView, workers: &[String], reason: &str) -> Option<Regroup> {
    let all_run = running(job).count() as u32 == job.gang.world_size();
    if job.state != State::Running || !all_run || job.ends() || job.leaves.is_some() {
        return None;
    }
    let next = Next::of(job, &ranks_of(job, &workers.iter().collect()), |_| false);
    if next.workers() < job.min_workers || !next.holds() {
        return None;
    }
    let reason = format!(
        "{reason}; {} of {} ranks go on",
        next.world_size(),
        job.gang.world_size()
    );
    Some(next.generation(Formation::Planned, String::new(), reason))
}

/// The ranks on some workers.
fn ranks_of(job: &GangView, workers: &BTreeSet<&String>) -> BTreeMap<u32, String> {
    let ranks = job.gang.ranks();
    let going = ranks.filter(|(_, member, _)| workers.contains(&member.worker_id));
    going.map(|(rank, ..)| (rank, String::new())).collect()
}
