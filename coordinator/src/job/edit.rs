use espalier_proto::v1::watch_job_response::Entry as FeedEntry;
use espalier_proto::v1::{JobEvent, JobEventKind};
use espalier_store::{Compare, Op, Revision, Store, Txn};

use super::{Gang, IllegalTransition, Member, RankPhase, Record, Snapshot, Trigger};
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
    /// The gang.
    pub(crate) gang: Gang,
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

    /// Gives the job a gang. The transaction's revision becomes the generation.
    pub(crate) fn place(
        &mut self,
        members: Vec<Member>,
        reason: &str,
    ) -> Result<(), IllegalTransition> {
        self.trigger(Trigger::Place, reason)?;
        let gang = Gang { members };
        self.record.ranks.clear();
        self.record.rendezvous = None;
        let worker_ids = gang.worker_ids();
        self.gang = GangEdit::Put(gang);
        self.event(JobEventKind::Placed, reason).worker_ids = worker_ids;
        Ok(())
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
        self.record.last_generation = revision.0;
        self.record.last_workers = gang.worker_ids();
        self.record.ranks.clear();
        self.record.rendezvous = None;
        self.gang = GangEdit::Delete;
        Some(Placed {
            gang,
            generation: revision.0,
        })
    }

    /// Notes what a rank reported. A failure is kept: what follows it is only its echo.
    pub(crate) fn report(&mut self, rank: u32, phase: RankPhase) {
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
