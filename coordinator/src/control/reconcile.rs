//! Carries out what the membership and the scheduler decide.

use std::collections::BTreeMap;

use tracing::info;

use super::Control;
use super::tracked::Worker;
use crate::clock::wall;
use crate::error::Error;
use crate::job::{JobId, Member, State, Trigger};
use crate::membership::{self, WorkerView};
use crate::scheduler;

impl Control {
    /// Decides over every gang, then over the queue.
    pub(super) async fn reconcile(&mut self) -> Result<(), Error> {
        let now = self.now();
        let workers: BTreeMap<String, WorkerView> = self
            .workers
            .iter()
            .map(|(id, worker)| (id.clone(), view(worker)))
            .collect();
        let gangs: Vec<_> = self
            .jobs
            .values()
            .filter_map(|tracked| tracked.gang_view(now, wall(), self.limits.lease_ttl))
            .collect();
        for gang in &gangs {
            if let Some(decision) = membership::decide(now, &self.limits, gang, &workers) {
                settled(self.settle(&gang.job_id, decision).await)?;
            } else if gang.state != State::Cancelling {
                settled(self.recruit(now, gang, &workers).await)?;
                settled(self.tell_slow(now, &gang.job_id).await)?;
            }
        }
        let mut queue: Vec<_> = self
            .jobs
            .values()
            .filter_map(|tracked| tracked.waiting())
            .collect();
        // A job that was running goes before those that have not begun.
        queue.sort_by_key(|job| {
            self.jobs
                .get(&job.job_id)
                .map(|t| t.state() == State::Queued)
        });
        for decision in scheduler::decide(now, &queue, &self.candidates(now)) {
            settled(self.schedule(decision).await)?;
        }
        self.forget(now).await
    }

    async fn settle(&mut self, id: &JobId, decision: membership::Decision) -> Result<(), Error> {
        use membership::Decision::{Fail, Regroup, Restart, Run, Stop};
        match decision {
            Run(reason) => {
                self.edit(id, |edit| Ok(edit.trigger(Trigger::Run, &reason)?))
                    .await
            }
            Stop => {
                self.edit(id, |edit| {
                    let reason = edit.record.reason.clone();
                    Ok(edit.trigger(Trigger::Stop, &reason)?)
                })
                .await
            }
            Regroup(regroup) => self.regroup(id, regroup).await,
            Fail(reason) => self.end_gang(id, Trigger::GiveUp, &reason).await,
            Restart(reason) => self.end_gang(id, Trigger::Lose, &reason).await,
        }
    }

    async fn end_gang(&mut self, id: &JobId, trigger: Trigger, reason: &str) -> Result<(), Error> {
        let generation = self.jobs.get(id).map(|t| t.job.generation());
        let (ended, restarts) = self
            .edit(id, |edit| {
                let current = generation.and_then(|g| edit.current(g)).is_some();
                let restarts = edit.record.infrastructure_restarts + 1;
                if !current {
                    return Ok((None, restarts));
                }
                let ended = edit.revoke(reason);
                if trigger == Trigger::Lose {
                    edit.record.infrastructure_restarts = restarts;
                }
                edit.trigger(trigger, reason)?;
                Ok((ended, restarts))
            })
            .await?;
        info!(job = %id, ?generation, reason, "gang revoked");
        self.tell_revoked(id, ended, reason);
        let not_before = self.now().plus(membership::pause(restarts));
        if let Some(tracked) = self.jobs.get_mut(id) {
            tracked.not_before = not_before;
        }
        Ok(())
    }

    async fn schedule(&mut self, decision: scheduler::Decision) -> Result<(), Error> {
        match decision {
            scheduler::Decision::Place {
                job_id,
                workers,
                reason,
            } => self.place(&job_id, &workers, &reason).await,
            scheduler::Decision::Wait { job_id, reason } => self.wait(&job_id, &reason).await,
        }
    }

    async fn place(&mut self, id: &JobId, workers: &[String], reason: &str) -> Result<(), Error> {
        let Some(tracked) = self.jobs.get(id) else {
            return Ok(());
        };
        let rank_count = tracked.job.record.demand.ranks_per_worker;
        let chosen: Vec<(String, String)> = workers
            .iter()
            .filter_map(|worker| self.workers.get(worker))
            .map(|worker| {
                let record = &worker.record;
                (record.worker_id.clone(), record.incarnation.clone())
            })
            .collect();
        self.edit(id, |edit| {
            let members = chosen.iter().zip(0u32..);
            let members = members
                .map(|((worker_id, incarnation), index)| Member {
                    worker_id: worker_id.clone(),
                    incarnation: incarnation.clone(),
                    first_rank: index * rank_count,
                    seats: (0..rank_count).map(|_| edit.seat()).collect(),
                })
                .collect();
            Ok(edit.place(members, reason)?)
        })
        .await?;
        if let Some(tracked) = self.jobs.get(id) {
            info!(job = %id, generation = tracked.job.generation(), reason, "gang placed");
            self.start(&tracked.job);
        }
        Ok(())
    }

    /// Shows what a job waits for. While it recovers, the loss stays in sight.
    async fn wait(&mut self, id: &JobId, reason: &str) -> Result<(), Error> {
        let Some(tracked) = self.jobs.get(id) else {
            return Ok(());
        };
        if tracked.state() != State::Queued || tracked.job.record.reason == reason {
            return Ok(());
        }
        self.edit(id, |edit| {
            if edit.record.state == State::Queued {
                reason.clone_into(&mut edit.record.reason);
            }
            Ok(())
        })
        .await
    }
}

/// A publish or a cancel may have moved the job on since it was read: then the decision is void.
fn settled(result: Result<(), Error>) -> Result<(), Error> {
    match result {
        Err(error) if !error.is_fatal() => {
            info!(%error, "decision dropped");
            Ok(())
        }
        other => other,
    }
}

fn view(worker: &Worker) -> WorkerView {
    WorkerView {
        incarnation: worker.registered.then(|| worker.record.incarnation.clone()),
        heard: worker.heard(),
        detached: (worker.registered && worker.link.is_none()).then_some(worker.detached),
    }
}
