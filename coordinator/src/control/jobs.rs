//! What clients and ranks ask of a job.

use espalier_proto::v1::{
    FaultKind, RankReport, RankState, Rendezvous, RendezvousReady, Revoke,
    session_response::Message,
};
use espalier_store::{Compare, Op, Outcome};
use tracing::{info, warn};

use super::handle::Submission;
use super::{ATTEMPTS, Control, MAX_JOBS};
use crate::clock::wall;
use crate::codec::{Unreadable, decode, encode};
use crate::error::Error;
use crate::job::{Edit, JobId, Placed, RankPhase, Record, Snapshot, State, Trigger};
use crate::keys;

/// Most bytes of a reason that came from outside.
pub(crate) const MAX_REASON: usize = 4 << 10;

/// Longest address of a rendezvous.
const MAX_ADDRESS: usize = 300;

impl Control {
    pub(super) async fn submit(&mut self, submission: Submission) -> Result<Snapshot, Error> {
        let request_key = keys::request(&submission.request_id);
        for _ in 0..ATTEMPTS {
            if let Some(earlier) = self.store().get(&request_key).await? {
                return self
                    .answer_again(decode(&earlier)?, &submission.spec_toml)
                    .await;
            }
            if self.jobs.len() >= MAX_JOBS {
                return Err(Error::QueueFull(MAX_JOBS));
            }
            let counter = self.store().get(keys::JOB_COUNTER).await?;
            let number = counter
                .as_ref()
                .map(decode::<u64>)
                .transpose()?
                .unwrap_or(0)
                + 1;
            let id = JobId::numbered(number);
            let now = wall();
            let spec_toml = submission.spec_toml.clone();
            let record = Record::accepted(id.clone(), &submission.spec, spec_toml, now);
            let txn = Edit::accept(record, now)
                .into_txn(self.store())
                .await?
                .when(Compare::Absent(request_key.clone()))
                .when(Compare::unchanged(keys::JOB_COUNTER, counter.as_ref()))
                .then(Op::put(request_key.clone(), encode(&id)))
                .then(Op::put(keys::JOB_COUNTER, encode(&number)));
            if let Outcome::Committed(_) = self.leader.commit(txn).await? {
                info!(job = %id, name = submission.spec.name, "job accepted");
                return self.reload(&id).await;
            }
        }
        Err(Error::Contended {
            what: "the list of jobs".to_owned(),
        })
    }

    async fn answer_again(&mut self, id: JobId, spec_toml: &str) -> Result<Snapshot, Error> {
        let job = self.reload(&id).await?;
        if job.record.spec_toml == spec_toml {
            Ok(job)
        } else {
            Err(Error::RequestReused(id))
        }
    }

    pub(super) async fn cancel(&mut self, id: &JobId, reason: &str) -> Result<Snapshot, Error> {
        let reason = match reason {
            "" => "cancelled by a user",
            given => cut(given),
        };
        let ended = self
            .edit(id, |edit| {
                let state = edit.record.state;
                if state.is_terminal() || state == State::Cancelling {
                    return Ok(None);
                }
                let ended = edit.revoke(reason);
                edit.trigger(Trigger::Cancel, reason)?;
                Ok(ended)
            })
            .await?;
        self.tell_revoked(id, ended, reason);
        self.reload(id).await
    }

    /// Rank 0 listens: its whole gang is told where. Stale news is dropped.
    pub(super) async fn rendezvous(
        &mut self,
        worker: &str,
        ready: &RendezvousReady,
    ) -> Result<(), Error> {
        let id = JobId::new(&ready.job_id);
        let known = self
            .jobs
            .get(&id)
            .and_then(|t| t.job.current(ready.generation));
        let Some(gang) = known.filter(|g| g.members.first().is_some_and(|m| m.worker_id == worker))
        else {
            warn!(job = %id, worker, generation = ready.generation, "rendezvous of no current gang");
            return Ok(());
        };
        if ready.address.is_empty() || ready.address.len() > MAX_ADDRESS {
            warn!(job = %id, worker, "rendezvous without a usable address");
            return Ok(());
        }
        let members = gang.worker_ids();
        self.edit(&id, |edit| {
            if edit.current(ready.generation).is_some() {
                edit.record.rendezvous = Some(ready.address.clone());
            }
            Ok(())
        })
        .await?;
        for member in members {
            let message = Rendezvous {
                job_id: ready.job_id.clone(),
                generation: ready.generation,
                address: ready.address.clone(),
            };
            self.send(&member, Message::Rendezvous(message));
        }
        Ok(())
    }

    /// Keeps what a rank reported; what follows from it is decided by the membership. A report of a
    /// generation that is over, or of another's rank, is dropped.
    pub(super) async fn rank_report(
        &mut self,
        worker: &str,
        report: &RankReport,
    ) -> Result<(), Error> {
        let id = JobId::new(&report.job_id);
        let Some(phase) = phase(report) else {
            warn!(job = %id, worker, "rank report without a state");
            return Ok(());
        };
        let kept = self
            .edit(&id, |edit| {
                let own = edit
                    .current(report.generation)
                    .and_then(|gang| gang.member(worker))
                    .is_some_and(|member| member.ranks().contains(&report.rank));
                if own {
                    if phase == RankPhase::Running && report.total_steps > 0 {
                        edit.record.total_steps = report.total_steps;
                    }
                    edit.report(report.rank, phase.clone());
                }
                Ok(own)
            })
            .await;
        match kept {
            Ok(true) => {
                if let Some(tracked) = self.jobs.get_mut(&id) {
                    tracked.absent.remove(worker);
                }
                info!(job = %id, worker, rank = report.rank, state = ?report.state(), reason = report.reason, "rank report");
                Ok(())
            }
            Ok(false) | Err(Error::NoSuchJob(_)) => {
                info!(job = %id, worker, generation = report.generation, "stale rank report");
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// The last step was measured: what remains is to measure and publish the model.
    pub(super) async fn trained(&mut self, id: &JobId, generation: u64) -> Result<(), Error> {
        self.edit(id, |edit| {
            if edit.current(generation).is_some() && edit.record.state == State::Running {
                edit.trigger(
                    Trigger::Trained,
                    "all steps are done; measuring and publishing the model",
                )?;
            }
            Ok(())
        })
        .await
    }

    /// Changes a job in one transaction, deciding anew from what is stored as often as others write it.
    pub(super) async fn edit<T>(
        &mut self,
        id: &JobId,
        mut change: impl FnMut(&mut Edit) -> Result<T, Error>,
    ) -> Result<T, Error> {
        for _ in 0..ATTEMPTS {
            let before = Snapshot::load(self.store(), id)
                .await?
                .ok_or_else(|| Error::NoSuchJob(id.clone()))?;
            let mut edit = Edit::of(before, wall());
            let value = change(&mut edit)?;
            if edit.is_empty() {
                return Ok(value);
            }
            let txn = edit.into_txn(self.store()).await?;
            if let Outcome::Committed(_) = self.leader.commit(txn).await? {
                self.reload(id).await?;
                return Ok(value);
            }
        }
        Err(Error::Contended {
            what: format!("job {id}"),
        })
    }

    async fn reload(&mut self, id: &JobId) -> Result<Snapshot, Error> {
        let Some(job) = Snapshot::load(self.store(), id).await? else {
            // Jobs are never removed.
            return Err(Unreadable::new(&keys::job(id), "the job vanished").into());
        };
        self.track(job.clone());
        Ok(job)
    }

    /// Tells the workers of a gang that it was ended.
    pub(super) fn tell_revoked(&self, id: &JobId, ended: Option<Placed>, reason: &str) {
        let Some(Placed { gang, generation }) = ended else {
            return;
        };
        for member in &gang.members {
            self.send(&member.worker_id, revoke(id, generation, reason));
        }
    }
}

pub(super) fn revoke(id: &JobId, generation: u64, reason: &str) -> Message {
    Message::Revoke(Revoke {
        job_id: id.to_string(),
        generation,
        reason: reason.to_owned(),
    })
}

fn phase(report: &RankReport) -> Option<RankPhase> {
    match report.state() {
        RankState::Unspecified => None,
        RankState::Running => Some(RankPhase::Running),
        RankState::Done => Some(RankPhase::Done),
        RankState::Failed => Some(RankPhase::Failed {
            user_fault: report.fault() == FaultKind::User,
            reason: match report.reason.as_str() {
                "" => "ended without a reason".to_owned(),
                given => cut(given).to_owned(),
            },
        }),
    }
}

/// At most the bytes kept of a reason, cut between characters.
pub(crate) fn cut(reason: &str) -> &str {
    &reason[..reason.floor_char_boundary(MAX_REASON)]
}
