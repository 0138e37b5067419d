//! What is lost of a gang, and how that is known.

use std::collections::BTreeMap;

use super::{DETACHED, GangView, Limits, WorkerView, running};
use crate::clock::Millis;
use crate::job::{Formation, Member, RankPhase};

/// The ranks that are lost, and why.
pub(super) fn losses(
    now: Millis,
    limits: &Limits,
    job: &GangView,
    workers: &BTreeMap<String, WorkerView>,
) -> BTreeMap<u32, String> {
    let overdue = job.gang.formation != Formation::Held && now.since(job.placed) > limits.start;
    let met = running(job).count();
    job.gang
        .ranks()
        .filter_map(|(rank, member, _)| {
            let worker = &member.worker_id;
            let cause = match job.ranks.get(&rank) {
                Some(RankPhase::Done) => return None,
                Some(RankPhase::Failed { reason, .. }) => {
                    format!("rank {rank} of worker {worker} lost ({reason})")
                }
                _ => match (
                    member_loss(now, limits, job, member, workers),
                    job.stalled.get(&rank),
                ) {
                    (Some(cause), _) => cause,
                    (None, Some(stall)) => {
                        format!("rank {rank} of worker {worker} stalled ({stall})")
                    }
                    (None, None) if overdue && !job.ranks.contains_key(&rank) => format!(
                        "{met} of {} ranks have met within {} s",
                        job.gang.world_size(),
                        limits.start.as_secs()
                    ),
                    (None, None) => return None,
                },
            };
            Some((rank, cause))
        })
        .collect()
}

fn member_loss(
    now: Millis,
    limits: &Limits,
    job: &GangView,
    member: &Member,
    workers: &BTreeMap<String, WorkerView>,
) -> Option<String> {
    let id = &member.worker_id;
    if let Some(cause) = worker_loss(now, limits, id, &member.incarnation, workers) {
        return Some(cause);
    }
    let since_long = |since: Option<Millis>, limit| since.is_some_and(|at| now.since(at) > limit);
    let detached = workers.get(id).and_then(|worker| worker.detached);
    if job.waiting.is_some() && since_long(detached, DETACHED) {
        return Some(format!(
            "worker {id} has no session, and its ranks' peers lost them"
        ));
    }
    let all_done = member
        .ranks()
        .all(|rank| job.ranks.get(&rank) == Some(&RankPhase::Done));
    (!all_done && since_long(job.absent.get(id).copied(), limits.lease_ttl))
        .then(|| format!("worker {id} registered without the ranks it was running"))
}

/// Why a worker's process is lost, if it is.
pub(crate) fn worker_loss(
    now: Millis,
    limits: &Limits,
    id: &str,
    incarnation: &str,
    workers: &BTreeMap<String, WorkerView>,
) -> Option<String> {
    let Some(worker) = workers.get(id) else {
        return Some(format!("worker {id} is not known any more"));
    };
    if worker
        .incarnation
        .as_ref()
        .is_some_and(|found| found != incarnation)
    {
        return Some(format!("worker {id} was restarted, which ended its ranks"));
    }
    let silence = now.since(worker.heard);
    (silence > limits.lease_ttl).then(|| {
        format!(
            "worker {id} was not heard for {:.1} s (lease {:.1} s)",
            silence.as_secs_f64(),
            limits.lease_ttl.as_secs_f64()
        )
    })
}

/// Ranks that wait, and what they saw.
pub(super) fn parted(job: &GangView) -> BTreeMap<u32, String> {
    job.gang
        .ranks()
        .filter_map(|(rank, member, _)| match job.ranks.get(&rank) {
            Some(RankPhase::Waiting { reason, .. }) => {
                let worker = &member.worker_id;
                Some((
                    rank,
                    format!("rank {rank} of worker {worker} lost its peers ({reason})"),
                ))
            }
            _ => None,
        })
        .collect()
}
