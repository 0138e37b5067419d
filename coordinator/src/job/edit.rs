use espalier_proto::v1::watch_job_response::Entry as FeedEntry;
use espalier_proto::v1::{self, JobEvent, JobEventKind};
use espalier_store::{Compare, Op, Revision, Store, Txn};

use super::{
    Formation, Gang, IllegalTransition, Leave, Member, RankPhase, Record, Seat, Snapshot, Then,
    Trigger,
};
use crate::codec::encode;
use crate::error::Error;
use crate::{feed, keys};

/// Changes to a job that become one transaction: its record, its gang, and the events that tell of them.
pub(crate) struct Edit {
    before: Snapshot,
    /// The record as it will be.
    pub(crate) record: Record,
    gang: GangEdit,
    events: Vec<JobEvent>,
    wall: u64,
}

enum GangEdit {
    Keep,
    Put(Gang),
    Delete,
}

/// A gang that an edit ended: whom to tell.
#[derive(Clone, Debug)]
pub(crate) struct Placed {
    /// Its workers, and those of its recruits.
    pub(crate) workers: Vec<String>,
    /// Its generation.
    pub(crate) generation: u64,
}

impl Edit {
    /// Starts from a job as read, at a wall time in milliseconds.
    pub(crate) fn of(before: Snapshot, wall: u64) -> Self {
        Self {
            record: before.record.clone(),
            before,
            gang: GangEdit::Keep,
            events: Vec::new(),
            wall,
        }
    }

    /// Generation of the gang as read, or of the last one.
    pub(crate) fn generation(&self) -> u64 {
        self.before.generation()
    }

    /// The gang as read, if this is its generation.
    pub(crate) fn current(&self, generation: u64) -> Option<&Gang> {
        self.before.current(generation)
    }

    /// The gang as read.
    pub(crate) fn gang(&self) -> Option<&Gang> {
        self.before.gang.as_ref().map(|(gang, _)| gang)
    }

    /// A new job.
    pub(crate) fn accept(record: Record, wall: u64) -> Self {
        let mut edit = Self::of(
            Snapshot {
                record,
                revision: Revision(0),
                gang: None,
            },
            wall,
        );
        edit.event(JobEventKind::Submitted, "accepted");
        edit
    }

    /// Tells the gang to leave its workers once what it has done is durable. A later word of what becomes
    /// of the job then takes the place of the first.
    pub(crate) fn leave(&mut self, then: Then, reason: &str) {
        let since = self.record.leave.as_ref().map_or(self.wall, |l| l.since);
        self.record.leave = Some(Leave {
            then,
            reason: reason.to_owned(),
            since,
        });
        reason.clone_into(&mut self.record.reason);
    }

    /// The gang has left, or the job waits anyway: it is paused, or back in its place in the queue.
    pub(crate) fn left(
        &mut self,
        leave: &Leave,
        how: &str,
    ) -> Result<Option<Placed>, IllegalTransition> {
        let reason = match how {
            "" => leave.reason.clone(),
            how => format!("{}; {how}", leave.reason),
        };
        let ended = self.revoke(&reason);
        self.record.leave = None;
        let trigger = match leave.then {
            Then::Paused => Trigger::Pause,
            Then::Queued => {
                self.record.evictions += 1;
                Trigger::Evict
            }
        };
        self.trigger(trigger, &reason)?;
        Ok(ended)
    }

    /// Moves the job along the table of its states.
    pub(crate) fn trigger(
        &mut self,
        trigger: Trigger,
        reason: &str,
    ) -> Result<(), IllegalTransition> {
        self.record.state = self.record.state.after(trigger)?;
        reason.clone_into(&mut self.record.reason);
        if self.record.state.is_terminal() {
            self.record.ended = Some(self.wall);
        }
        self.event(JobEventKind::StateChanged, reason);
        Ok(())
    }

    /// Gives the job a gang of processes that are to be started. The transaction's revision becomes the
    /// generation.
    pub(crate) fn place(
        &mut self,
        members: Vec<Member>,
        reason: &str,
    ) -> Result<(), IllegalTransition> {
        self.trigger(Trigger::Place, reason)?;
        self.record.recruits.clear();
        self.record.recovery = None;
        self.put(
            Gang {
                members,
                formation: Formation::Fresh,
                since: 0,
                reason: reason.to_owned(),
            },
            reason,
        );
        Ok(())
    }

    /// A seat for a process that is to be started.
    pub(crate) fn seat(&mut self) -> Seat {
        self.record.seats += 1;
        Seat {
            id: self.record.seats,
            holds: false,
        }
    }

    /// Puts a gang of processes that run in the place of the present one, which is over from here on. Its
    /// recruits among them are recruits no more.
    pub(crate) fn regroup(&mut self, mut gang: Gang, reason: &str) {
        if let Some((before, revision)) = &self.before.gang {
            gang.since = if before.since == 0 {
                revision.0
            } else {
                before.since
            };
        }
        reason.clone_into(&mut gang.reason);
        let joins = |seat: u64| gang.ranks().any(|(.., known)| known.id == seat);
        self.record.recruits.retain(|recruit| !joins(recruit.seat));
        self.put(gang, reason);
    }

    fn put(&mut self, gang: Gang, reason: &str) {
        self.record.ranks.clear();
        self.record.rendezvous = None;
        let worker_ids = gang.worker_ids();
        self.gang = GangEdit::Put(gang);
        self.event(JobEventKind::Placed, reason).worker_ids = worker_ids;
    }

    /// Tells that part of the gang was lost.
    pub(crate) fn lost(&mut self, cause: &str) {
        self.event(JobEventKind::Revoked, cause);
    }

    /// Tells what people should know.
    pub(crate) fn warn(&mut self, reason: &str) {
        self.event(JobEventKind::Warning, reason);
    }

    /// Tells how a recovery went.
    pub(crate) fn recovered(&mut self, recovery: v1::Recovery, reason: &str) {
        reason.clone_into(&mut self.record.last_recovery);
        self.record.recovery = None;
        self.event(JobEventKind::Recovered, reason).recovery = Some(recovery);
    }

    /// The wall time of the change, milliseconds since 1970.
    pub(crate) fn wall(&self) -> u64 {
        self.wall
    }

    /// Takes the gang away, so that nothing of its generation is accepted any more. Say it before the
    /// trigger that ends the job: the terminal event is the last.
    pub(crate) fn revoke(&mut self, reason: &str) -> Option<Placed> {
        let ended = self.release()?;
        self.event(JobEventKind::Revoked, reason);
        Some(ended)
    }

    /// Takes the gang away without an event: its work is done.
    pub(crate) fn release(&mut self) -> Option<Placed> {
        let (gang, revision) = self.before.gang.clone()?;
        let ended = self.before.placed();
        self.record.last_generation = revision.0;
        self.record.last_workers = gang.worker_ids();
        self.record.ranks.clear();
        self.record.rendezvous = None;
        self.record.recruits.clear();
        self.record.recovery = None;
        self.record.leave = None;
        self.record.guest_of = None;
        self.gang = GangEdit::Delete;
        ended
    }

    /// Notes what a rank reported. A failure is kept: what follows it is only its echo.
    pub(crate) fn report(&mut self, rank: u32, mut phase: RankPhase) {
        let known = self.record.ranks.get(&rank);
        let ran = matches!(known, Some(RankPhase::Running | RankPhase::Halted));
        if let RankPhase::Waiting { holds, .. } = &mut phase {
            *holds = ran;
        }
        if !matches!(self.record.ranks.get(&rank), Some(RankPhase::Failed { .. })) {
            self.record.ranks.insert(rank, phase);
        }
    }

    /// Extends the ledger to a step whose checkpoint is this digest.
    pub(crate) fn commit_steps(&mut self, step: u64, digest: &str) {
        let first_step = self.record.committed_step + 1;
        self.record.committed_step = step;
        let event = self.event(JobEventKind::StepsCommitted, "");
        event.first_step = first_step;
        event.last_step = step;
        digest.clone_into(&mut event.digest);
    }

    /// Notes the published model.
    pub(crate) fn publish(&mut self, digest: &str, reason: &str) {
        digest.clone_into(&mut self.record.published_digest);
        digest.clone_into(&mut self.event(JobEventKind::Published, reason).digest);
    }

    fn event(&mut self, kind: JobEventKind, reason: &str) -> &mut JobEvent {
        let at = self.events.len();
        self.events.push(JobEvent {
            kind: kind.into(),
            state: self.record.state.wire().into(),
            generation: self.before.generation(),
            reason: reason.to_owned(),
            ..JobEvent::default()
        });
        &mut self.events[at]
    }

    /// Nothing differs from what was read.
    pub(crate) fn is_empty(&self) -> bool {
        matches!(self.gang, GangEdit::Keep)
            && self.events.is_empty()
            && self.record == self.before.record
    }

    /// The transaction: holds only if record, gang and feed are still as read.
    pub(crate) async fn into_txn(self, store: &Store) -> Result<Txn, Error> {
        let id = &self.record.job_id;
        let (record_key, gang_key) = (keys::job(id), keys::gang(id));
        let mut txn = Txn::new()
            .when(match self.before.revision {
                Revision(0) => Compare::Absent(record_key.clone()),
                revision => Compare::ModRevision(record_key.clone(), revision),
            })
            .when(match &self.before.gang {
                Some((_, generation)) => Compare::ModRevision(gang_key.clone(), *generation),
                None => Compare::Absent(gang_key.clone()),
            })
            .then(Op::put(record_key, encode(&self.record)));
        #[cfg(feature = "mutants")]
        if espalier_mutants::is("blind-edit") && self.before.revision != Revision(0) {
            txn.compares.clear();
        }
        match &self.gang {
            GangEdit::Keep => {}
            GangEdit::Put(gang) => txn = txn.then(Op::put(gang_key, encode(gang))),
            GangEdit::Delete => txn = txn.then(Op::delete(gang_key)),
        }
        if !self.events.is_empty() {
            let first = match self.before.revision {
                // A job that is still to be made has none.
                Revision(0) => 1,
                _ => feed::next_cursor(store, id).await?,
            };
            let entries = self.events.into_iter().map(FeedEntry::Event);
            let (compares, ops) = feed::append(id, first, self.wall, entries);
            txn.compares.extend(compares);
            txn.ops.extend(ops);
        }
        Ok(txn)
    }
}
