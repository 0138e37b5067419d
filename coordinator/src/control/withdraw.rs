//! Gangs that leave their workers without a fault: paused by a user, or evicted. Rank 0 hands over a
//! checkpoint first; that it has, and until when it may take, is for the membership to decide.

use espalier_proto::v1::Halt;
use espalier_proto::v1::session_response::Message;
use tracing::info;

use super::{Control, cut};
use crate::clock::Millis;
use crate::error::Error;
use crate::job::{JobId, Leave, Snapshot, State, Then, Trigger};

impl Control {
    pub(super) async fn pause(&mut self, id: &JobId, reason: &str) -> Result<Snapshot, Error> {
        let reason = match reason {
            "" => "paused by a user".to_owned(),
            given => format!("paused by a user: {}", cut(given)),
        };
        let ended = self
            .edit(id, |edit| {
                let state = edit.record.state;
                match state {
                    State::Paused => return Ok(None),
                    State::Publishing
                    | State::Cancelling
                    | State::Succeeded
                    | State::Failed
                    | State::Cancelled => {
                        return Err(Error::WrongState {
                            job: id.clone(),
                            state,
                            asked: "paused",
                        });
                    }
                    State::Queued | State::Placing | State::Running | State::Recovering => {}
                }
                if edit.gang().is_some() && state != State::Placing {
                    edit.leave(Then::Paused, &reason);
                    return Ok(None);
                }
                let leave = Leave {
                    then: Then::Paused,
                    reason: reason.clone(),
                    since: edit.wall(),
                };
                Ok(edit.left(&leave, "")?)
            })
            .await?;
        self.tell_revoked(id, ended, &reason);
        self.tell_halt(id);
        info!(job = %id, reason, "pause asked for");
        self.reload(id).await
    }

    pub(super) async fn resume(&mut self, id: &JobId) -> Result<Snapshot, Error> {
        const RESUMED: &str = "resumed by a user";
        self.edit(id, |edit| {
            let state = edit.record.state;
            if state.is_terminal() {
                return Err(Error::WrongState {
                    job: id.clone(),
                    state,
                    asked: "resumed",
                });
            }
            if state == State::Paused {
                edit.trigger(Trigger::Resume, RESUMED)?;
            } else if let Some(leave) = &mut edit.record.leave
                && leave.then == Then::Paused
            {
                // Rank 0 may have halted by now: the gang leaves all the same, and comes back.
                leave.then = Then::Queued;
                leave.reason = format!("{}; {RESUMED}", leave.reason);
            }
            Ok(())
        })
        .await?;
        if let Some(tracked) = self.jobs.get_mut(id) {
            tracked.not_before = Millis(0);
        }
        self.reload(id).await
    }

    /// A gang that runs is told to leave its workers.
    pub(super) async fn ask_to_leave(
        &mut self,
        id: &JobId,
        then: Then,
        reason: &str,
    ) -> Result<(), Error> {
        self.edit(id, |edit| {
            let state = edit.record.state;
            if edit.gang().is_some() && state != State::Publishing && edit.record.leave.is_none() {
                edit.leave(then, reason);
            }
            Ok(())
        })
        .await?;
        self.tell_halt(id);
        Ok(())
    }

    /// The gang has left, or its time for that is over.
    pub(super) async fn withdraw(&mut self, id: &JobId, how: &str) -> Result<(), Error> {
        let left = self
            .edit(id, |edit| {
                let Some(leave) = edit.record.leave.clone() else {
                    return Ok(None);
                };
                let ended = edit.left(&leave, how)?;
                Ok(Some((ended, edit.record.reason.clone())))
            })
            .await?;
        if let Some((ended, reason)) = left {
            info!(job = %id, reason, "gang has left");
            self.tell_revoked(id, ended, &reason);
        }
        Ok(())
    }

    /// Tells rank 0 of a gang that is to leave.
    pub(super) fn tell_halt(&self, id: &JobId) {
        let job = self.jobs.get(id).map(|tracked| &tracked.job);
        if let Some((worker, message)) = job.and_then(halt) {
            self.send(&worker, message);
        }
    }
}

/// The order for a gang that is to leave, and the worker of its rank 0.
pub(super) fn halt(job: &Snapshot) -> Option<(String, Message)> {
    job.record.leave.as_ref()?;
    let (gang, generation) = job.gang.as_ref()?;
    let order = Halt {
        job_id: job.record.job_id.to_string(),
        generation: generation.0,
    };
    Some((
        gang.members.first()?.worker_id.clone(),
        Message::Halt(order),
    ))
}
