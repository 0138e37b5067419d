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
use crate::membership;

/// Most bytes of a reason that came from outside.
pub(crate) const MAX_REASON: usize = 4 << 10;

/// Longest address of a rendezvous.
const MAX_ADDRESS: usize = 300;

impl Control {
    pub(super) async fn submit(&mut self, submission: Submission) -> Result<Snapshot, Error> {
        let request_key = keys::request(&submission.request_id);
        for _ in 0..ATTEMPTS {
            let earlier = self.store().get(&request_key).await?;
            #[cfg(feature = "mutants")]
            let earlier = earlier.filter(|_| !espalier_mutants::is("submit-twice"));
            if let Some(earlier) = earlier {
                return self
                    .answer_again(decode(&earlier)?, &submission.spec_toml)
                    .await;
            }
            if self.jobs.len() >= MAX_JOBS {
                return Err(Error::QueueFull(MAX_JOBS));
            }
            self.check_queue(&submission.spec.resources.queue)?;
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
            #[cfg(feature = "mutants")]
            if espalier_mutants::is("early-answer") {
                return Ok(Snapshot {
                    record,
                    revision: espalier_store::Revision(0),
                    gang: None,
                });
            }
            let txn = Edit::accept(record, now)
                .into_txn(self.store())
                .await?
                .when(Compare::Absent(request_key.clone()))
                .when(Compare::unchanged(keys::JOB_COUNTER, counter.as_ref()))
                .then(Op::put(request_key.clone(), encode(&id)))
                .then(Op::put(keys::JOB_COUNTER, encode(&number)));
            #[cfg(feature = "mutants")]
            let txn = if espalier_mutants::is("submit-twice") {
                espalier_store::Txn {
                    compares: Vec::new(),
                    ..txn
                }
            } else {
                txn
            };
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
    /// generation that is over, or of another's rank, is dropped; that a process has ended or is ready
    /// counts whatever the generation.
    pub(super) async fn rank_report(
        &mut self,
        worker: &str,
        report: &RankReport,
    ) -> Result<(), Error> {
        let id = JobId::new(&report.job_id);
        let Some(said) = said(report) else {
            warn!(job = %id, worker, "rank report without a state");
            return Ok(());
        };
        let kept = self
            .edit(&id, |edit| {
                if let Some(heard) = hear_recruit(edit, worker, report.seat, &said) {
                    return Ok(heard);
                }
                let Said::Phase(phase) = &said else {
                    return Ok(Heard::Stale);
                };
                let ended = matches!(phase, RankPhase::Failed { .. });
                let rank = edit
                    .gang()
                    .filter(|_| ended || edit.current(report.generation).is_some())
                    .and_then(|gang| gang.rank_of(worker, report.seat));
                let Some(rank) = rank else {
                    return Ok(Heard::Stale);
                };
                if *phase == RankPhase::Running && report.total_steps > 0 {
                    edit.record.total_steps = report.total_steps;
                }
                edit.report(rank, phase.clone());
                Ok(Heard::Kept)
            })
            .await;
        let heard = match kept {
            Err(Error::NoSuchJob(_)) => Heard::Stale,
            other => other?,
        };
        match heard {
            Heard::Stale => {
                info!(job = %id, worker, generation = report.generation, "stale rank report");
            }
            Heard::Kept | Heard::RecruitFailed => {
                let now = self.now();
                if let Some(tracked) = self.jobs.get_mut(&id) {
                    tracked.absent.remove(worker);
                    if matches!(heard, Heard::RecruitFailed) {
                        tracked.recruits_failed += 1;
                        let pause = membership::recruit_pause(tracked.recruits_failed);
                        tracked.recruits_not_before = now.plus(pause);
                    }
                }
                info!(job = %id, worker, rank = report.rank, seat = report.seat, state = ?report.state(), reason = report.reason, "rank report");
                if report.state() == RankState::Failed && report.fault() != FaultKind::User {
                    let cause = format!("job {id}: {}", cut(&report.reason));
                    self.note_fault(worker, &id, report.generation, &cause)
                        .await?;
                }
            }
        }
        Ok(())
    }

    /// The last step was measured: what remains is to measure and publish the model.
    pub(super) async fn trained(&mut self, id: &JobId, generation: u64) -> Result<(), Error> {
        self.edit(id, |edit| {
            if edit.current(generation).is_some() && edit.record.state == State::Running {
                // There is no step left to halt before.
                edit.record.leave = None;
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

    pub(super) async fn reload(&mut self, id: &JobId) -> Result<Snapshot, Error> {
        let Some(job) = Snapshot::load(self.store(), id).await? else {
            // Jobs are never removed.
            return Err(Unreadable::new(&keys::job(id), "the job vanished").into());
        };
        self.track(job.clone());
        Ok(job)
    }

    /// Tells the workers of a gang that it was ended.
    pub(super) fn tell_revoked(&self, id: &JobId, ended: Option<Placed>, reason: &str) {
        let Some(Placed {
            workers,
            generation,
        }) = ended
        else {
            return;
        };
        for worker in &workers {
            self.send(worker, revoke(id, generation, reason));
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

/// What a report of a rank says.
enum Said {
    /// A recruit can join.
    Ready,
    /// A rank of the gang stands so.
    Phase(RankPhase),
}

/// What became of a report.
enum Heard {
    Kept,
    RecruitFailed,
    Stale,
}

fn said(report: &RankReport) -> Option<Said> {
    let reason = || match report.reason.as_str() {
        "" => "ended without a reason".to_owned(),
        given => cut(given).to_owned(),
    };
    Some(Said::Phase(match report.state() {
        RankState::Unspecified => return None,
        RankState::Ready => return Some(Said::Ready),
        RankState::Running => RankPhase::Running,
        RankState::Done => RankPhase::Done,
        RankState::Halted => RankPhase::Halted,
        RankState::Waiting => RankPhase::Waiting {
            reason: reason(),
            holds: false,
        },
        RankState::Failed => RankPhase::Failed {
            user_fault: report.fault() == FaultKind::User,
            reason: reason(),
        },
    }))
}

/// Notes what a recruit says; none if the seat is no recruit's. A recruit that has ended is forgotten.
fn hear_recruit(edit: &mut Edit, worker: &str, seat: u64, said: &Said) -> Option<Heard> {
    let recruits = &mut edit.record.recruits;
    let at = recruits
        .iter()
        .position(|recruit| recruit.seat == seat && recruit.worker_id == worker)?;
    match said {
        Said::Ready => {
            recruits[at].ready = true;
            Some(Heard::Kept)
        }
        Said::Phase(RankPhase::Failed { reason, .. }) => {
            recruits.remove(at);
            edit.warn(&format!("a recruit on worker {worker} was lost: {reason}"));
            Some(Heard::RecruitFailed)
        }
        Said::Phase(_) => Some(Heard::Stale),
    }
}

/// At most the bytes kept of a reason, cut between characters.
pub(crate) fn cut(reason: &str) -> &str {
    &reason[..reason.floor_char_boundary(MAX_REASON)]
}
