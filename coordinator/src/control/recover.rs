//! Carries a gang into a new generation, and starts those that will join it.

use std::collections::BTreeMap;

use espalier_proto::v1::session_response::Message;
use espalier_proto::v1::{self, RecoveryReport};
use tracing::info;

use super::{Control, Tracked};
use crate::clock::{Millis, timestamp};
use crate::error::Error;
use crate::job::{Edit, Formation, JobId, Placed, Recovery, Recruit, State, Trigger};
use crate::membership::{self, GangView, Regroup, WorkerView};
use crate::recruiting::{self, Wish};
use crate::scheduler::Candidate;

impl Control {
    /// Commits a new generation in one transaction, and pushes it down the survivors' sessions.
    pub(super) async fn regroup(&mut self, id: &JobId, regroup: Regroup) -> Result<(), Error> {
        let Some(before) = self.jobs.get(id).and_then(|t| t.job.placed()) else {
            return Ok(());
        };
        let done = self
            .edit(id, |edit| {
                if edit.current(before.generation).is_none() {
                    return Ok(false);
                }
                note(edit, &regroup)?;
                edit.regroup(regroup.gang.clone(), &regroup.reason);
                Ok(true)
            })
            .await?;
        if done {
            self.lead(id, &before, &regroup);
        }
        Ok(())
    }

    /// Pushes a new generation down the sessions of those in it, and ends those of the one before that
    /// are not.
    pub(super) fn lead(&mut self, id: &JobId, before: &Placed, regroup: &Regroup) {
        let Some(tracked) = self.jobs.get_mut(id) else {
            return;
        };
        if regroup.recruits > 0 {
            tracked.recruits_failed = 0;
        }
        let generation = tracked.job.generation();
        let job = tracked.job.clone();
        info!(job = %id, generation, reason = regroup.reason, "gang regrouped");
        self.start(&job);
        let stays = |worker: &str| {
            let recruits = &job.record.recruits;
            regroup.gang.member(worker).is_some()
                || recruits.iter().any(|recruit| recruit.worker_id == worker)
        };
        for worker in before.workers.iter().filter(|worker| !stays(worker)) {
            let message = super::jobs::revoke(id, before.generation, &regroup.reason);
            self.send(worker, message);
        }
    }

    /// Starts recruits, and forgets those whose workers are gone.
    pub(super) async fn recruit(
        &mut self,
        now: Millis,
        job: &GangView,
        workers: &BTreeMap<String, WorkerView>,
    ) -> Result<(), Error> {
        let Some(tracked) = self.jobs.get(&job.job_id) else {
            return Ok(());
        };
        let demand = &tracked.job.record.demand;
        let (fit, gone): (Vec<Recruit>, Vec<Recruit>) =
            job.recruits.iter().cloned().partition(|recruit| {
                let (id, incarnation) = (&recruit.worker_id, &recruit.incarnation);
                let lost = membership::worker_loss(now, &self.limits, id, incarnation, workers);
                lost.is_none() && self.is_open(id)
            });
        let free: Vec<Candidate> = self
            .candidates(now)
            .into_iter()
            .filter(|worker| {
                worker.device == demand.device && !tracked.avoids(&worker.worker_id, now)
            })
            .collect();
        let wish = Wish {
            max_workers: self.most_workers(tracked),
            ranks_per_worker: demand.ranks_per_worker,
            not_before: tracked.recruits_not_before,
            crowded: self
                .jobs
                .values()
                .filter_map(|other| other.waiting())
                .any(|other| other.device == demand.device),
        };
        let starts = recruiting::decide(now, job, &wish, &fit, &free);
        if starts.is_empty() && gone.is_empty() {
            return Ok(());
        }
        self.enlist(&job.job_id, &starts, &gone).await?;
        // Those of workers that are there but closed still prepare.
        for recruit in &gone {
            self.dismiss(&job.job_id, &recruit.worker_id);
        }
        Ok(())
    }

    /// Ends what a worker runs of a job that has no place for it any more.
    fn dismiss(&self, id: &JobId, worker: &str) {
        let Some(tracked) = self.jobs.get(id) else {
            return;
        };
        let member = tracked
            .gang()
            .is_some_and(|gang| gang.member(worker).is_some());
        let recruits = &tracked.job.record.recruits;
        if !member && !recruits.iter().any(|recruit| recruit.worker_id == worker) {
            let generation = tracked.job.generation();
            let reason = "the worker takes no recruits any more";
            self.send(worker, super::jobs::revoke(id, generation, reason));
        }
    }

    /// Most workers that a job with a gang takes, as its queue's quota leaves it.
    fn most_workers(&self, tracked: &Tracked) -> u32 {
        let demand = &tracked.job.record.demand;
        let queue = self.queues.get(&demand.queue).copied().unwrap_or_default();
        let Some(quota) = queue.quota(demand.device) else {
            return demand.max_workers;
        };
        let others = self.used_by(&demand.queue, demand.device) - tracked.slots();
        let left = quota.saturating_sub(others) / demand.ranks_per_worker.max(1);
        left.clamp(demand.min_workers, demand.max_workers)
    }

    async fn enlist(
        &mut self,
        id: &JobId,
        starts: &[(String, u32)],
        gone: &[Recruit],
    ) -> Result<(), Error> {
        let chosen: Vec<(String, String, u32)> = starts
            .iter()
            .filter_map(|(worker, count)| {
                let record = &self.workers.get(worker)?.record;
                Some((worker.clone(), record.incarnation.clone(), *count))
            })
            .collect();
        self.edit(id, |edit| {
            edit.record.recruits.retain(|known| !gone.contains(known));
            for (worker_id, incarnation, count) in &chosen {
                for _ in 0..*count {
                    let recruit = Recruit {
                        seat: edit.seat().id,
                        worker_id: worker_id.clone(),
                        incarnation: incarnation.clone(),
                        ready: false,
                    };
                    edit.record.recruits.push(recruit);
                }
            }
            Ok(())
        })
        .await?;
        for (worker, incarnation, count) in &chosen {
            info!(job = %id, worker, count, "recruits are asked for");
            if let Some(message) = self.recruits_on(id, worker, incarnation) {
                self.send(worker, message);
            }
        }
        Ok(())
    }

    /// The order for the recruits of a job on a worker's process, if it has any.
    pub(super) fn recruits_on(
        &self,
        id: &JobId,
        worker: &str,
        incarnation: &str,
    ) -> Option<Message> {
        let job = &self.jobs.get(id)?.job;
        let seats: Vec<u64> = job
            .record
            .recruits
            .iter()
            .filter(|recruit| recruit.worker_id == worker && recruit.incarnation == incarnation)
            .map(|recruit| recruit.seat)
            .collect();
        (!seats.is_empty()).then(|| {
            Message::Recruit(v1::Recruit {
                job_id: id.to_string(),
                generation: job.generation(),
                seats,
                spec_toml: job.record.spec_toml.clone(),
            })
        })
    }

    /// The first step after a recovery is done: its story is complete.
    pub(super) async fn recovered(
        &mut self,
        worker: &str,
        report: &RecoveryReport,
    ) -> Result<(), Error> {
        let id = JobId::new(&report.job_id);
        let told = self
            .edit(&id, |edit| {
                let current = edit
                    .current(report.generation)
                    .is_some_and(|gang| gang.member(worker).is_some());
                let recovery = edit.record.recovery.clone().filter(|_| current);
                let Some((recovery, regrouped)) =
                    recovery.and_then(|r| Some((r.clone(), r.regrouped?)))
                else {
                    return Ok(None);
                };
                let whole = wire(&recovery, regrouped, report, edit.wall());
                let reason = sentence(&whole);
                edit.recovered(whole, &reason);
                Ok(Some(reason))
            })
            .await;
        match told {
            Ok(Some(reason)) => info!(job = %id, reason, "recovered"),
            Ok(None) | Err(Error::NoSuchJob(_)) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

/// What a new generation changes besides the gang: the job's state, its budget and the story of the
/// recovery.
pub(super) fn note(edit: &mut Edit, regroup: &Regroup) -> Result<(), Error> {
    let wall = edit.wall();
    let lost = !regroup.cause.is_empty();
    if lost {
        let mut recent: Vec<u64> = edit.record.recent(wall).collect();
        recent.push(wall);
        edit.record.recent_recoveries = recent;
        edit.record.recoveries += 1;
        edit.lost(&regroup.cause);
    }
    if lost || edit.record.state == State::Recovering {
        edit.trigger(Trigger::Regroup, &regroup.reason)?;
        let known = edit.record.recovery.take();
        let (cause, detected) = match known {
            Some(known) if lost => (
                format!("{}; then {}", known.cause, regroup.cause),
                known.detected,
            ),
            Some(known) => (known.cause, known.detected),
            None => (regroup.cause.clone(), wall),
        };
        edit.record.recovery = Some(Recovery {
            cause,
            detected,
            regrouped: (regroup.gang.formation != Formation::Held).then_some(wall),
            survivors: regroup.gang.world_size() - regroup.recruits,
            recruits: regroup.recruits,
        });
    }
    Ok(())
}

fn wire(recovery: &Recovery, regrouped: u64, report: &RecoveryReport, wall: u64) -> v1::Recovery {
    v1::Recovery {
        cause: recovery.cause.clone(),
        survivors: recovery.survivors,
        recruits: recovery.recruits,
        step: report.step,
        healed: report.healed,
        detect_time: Some(timestamp(recovery.detected)),
        regroup_ms: regrouped.saturating_sub(recovery.detected),
        meet_ms: report.meet_ms,
        heal_ms: report.heal_ms,
        step_ms: report.step_ms,
        total_ms: wall.saturating_sub(recovery.detected),
    }
}

fn sentence(recovery: &v1::Recovery) -> String {
    let recruits = match recovery.recruits {
        0 => String::new(),
        recruits => format!(" and {recruits} recruits"),
    };
    format!(
        "recovered in {:.1} s: {}; {} survivors{recruits} at step {}, healed {}, next step done",
        recovery.total_ms as f64 / 1000.0,
        recovery.cause,
        recovery.survivors,
        recovery.step,
        recovery.healed,
    )
}
