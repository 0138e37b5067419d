//! Carries out what the membership and the scheduler decide.

use std::collections::BTreeMap;

use espalier_store::{Outcome, Txn};
use tracing::info;

use super::Control;
use super::tracked::Worker;
use crate::clock::wall;
use crate::error::Error;
use crate::job::{Edit, JobId, Member, Snapshot, State, Trigger};
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
            self.keep_leading().await?;
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
        let mut waits = Vec::new();
        for decision in scheduler::decide(now, &queue, &self.candidates(now)) {
            self.keep_leading().await?;
            match decision {
                scheduler::Decision::Place {
                    job_id,
                    workers,
                    reason,
                } => settled(self.place(&job_id, &workers, &reason).await)?,
                scheduler::Decision::Wait { job_id, reason } => waits.push((job_id, reason)),
            }
        }
        self.wait(waits).await?;
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

    /// Shows what jobs wait for. While one recovers, the loss stays in sight.
    async fn wait(&mut self, waits: Vec<(JobId, String)>) -> Result<(), Error> {
        let news: Vec<(Snapshot, String)> = waits
            .into_iter()
            .filter_map(|(id, reason)| {
                let job = &self.jobs.get(&id)?.job;
                let record = &job.record;
                let news = record.state == State::Queued && record.reason != reason;
                news.then(|| (job.clone(), reason))
            })
            .collect();
        let limits = self.store().limits();
        let mut rest = news.as_slice();
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = |(job, _): &&(Snapshot, String)| {
                // As JSON a text may be twice as long.
                bytes += 2 * job.record.spec_toml.len();
                bytes < limits.bytes / 2
            };
            let most = limits.ops / 2;
            let count = rest.iter().take(most).take_while(fits).count().max(1);
            let (batch, later) = rest.split_at(count);
            self.keep_leading().await?;
            if !self.wait_all(batch).await? {
                for (job, reason) in batch {
                    settled(self.wait_one(&job.record.job_id, reason).await)?;
                }
            }
            rest = later;
        }
        Ok(())
    }

    /// In one transaction; false when another has written one of the jobs.
    async fn wait_all(&mut self, batch: &[(Snapshot, String)]) -> Result<bool, Error> {
        let mut txn = Txn::new();
        let mut records = Vec::with_capacity(batch.len());
        for (job, reason) in batch {
            let mut edit = Edit::of(job.clone(), wall());
            reason.clone_into(&mut edit.record.reason);
            records.push(edit.record.clone());
            let job = edit.into_txn(self.store()).await?;
            txn.compares.extend(job.compares);
            txn.ops.extend(job.ops);
        }
        let Outcome::Committed(revision) = self.leader.commit(txn).await? else {
            return Ok(false);
        };
        for record in records {
            self.track(Snapshot {
                record,
                revision,
                gang: None,
            });
        }
        Ok(true)
    }

    async fn wait_one(&mut self, id: &JobId, reason: &str) -> Result<(), Error> {
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
