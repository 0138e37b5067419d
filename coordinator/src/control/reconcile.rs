//! Carries out what the membership and the scheduler decide.

use std::collections::BTreeMap;

use tracing::info;

use super::Control;
use super::tracked::{Tracked, Worker};
use crate::clock::{Millis, wall};
use crate::error::Error;
use crate::job::{JobId, State, Trigger};
use crate::membership::{self, GangView, WorkerView};

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
            .filter_map(|tracked| self.gang_view(now, tracked))
            .collect();
        for gang in &gangs {
            self.keep_leading().await?;
            if let Some(decision) = membership::decide(now, &self.limits, gang, &workers) {
                settled(self.settle(gang, decision).await)?;
            } else if gang.state != State::Cancelling {
                settled(self.recruit(now, gang, &workers).await)?;
                settled(self.tell_slow(now, &gang.job_id).await)?;
                settled(self.leave_drained(&gang.job_id).await)?;
            }
        }
        self.schedule(now).await?;
        self.forget(now).await
    }

    /// A gang as the membership sees it; none for a job without one, unless it is being cancelled.
    pub(super) fn gang_view(&self, now: Millis, tracked: &Tracked) -> Option<GangView> {
        let mut view = tracked.gang_view(now, wall(), self.limits.lease_ttl)?;
        view.let_go.extend(self.drained(&view.gang));
        Some(view)
    }

    async fn settle(
        &mut self,
        gang: &GangView,
        decision: membership::Decision,
    ) -> Result<(), Error> {
        use membership::Decision::{Fail, Leave, Regroup, Restart, Run, Stop};
        let id = &gang.job_id;
        if matches!(decision, Regroup(_) | Restart(_) | Fail(_)) {
            self.note_stalls(gang).await?;
        }
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
            Leave(how) => self.withdraw(id, &how).await,
            Fail(reason) => self.end_gang(id, Trigger::GiveUp, &reason).await,
            Restart(reason) => self.end_gang(id, Trigger::Lose, &reason).await,
        }
    }

    /// That a rank does not come to its peers is a fault of its worker.
    async fn note_stalls(&mut self, gang: &GangView) -> Result<(), Error> {
        let generation = self.jobs.get(&gang.job_id).map(|t| t.job.generation());
        for (rank, stall) in &gang.stalled {
            let mut ranks = gang.gang.ranks();
            let found = ranks.find(|(known, ..)| known == rank);
            if let (Some((_, member, _)), Some(generation)) = (found, generation) {
                let worker = member.worker_id.clone();
                self.note_fault(&worker, &gang.job_id, generation, stall)
                    .await?;
            }
        }
        Ok(())
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
                if trigger == Trigger::Lose
                    && let Some(leave) = edit.record.leave.clone()
                {
                    // It was to go anyway.
                    return Ok((edit.left(&leave, reason)?, 0));
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
}

/// A publish or a cancel may have moved the job on since it was read: then the decision is void.
pub(super) fn settled(result: Result<(), Error>) -> Result<(), Error> {
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
