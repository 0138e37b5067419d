use std::collections::BTreeMap;
use std::time::Duration;

use super::Link;
use crate::clock::Millis;
use crate::job::{Formation, Gang, RankPhase, Snapshot, State};
use crate::membership::GangView;
use crate::scheduler::Waiting;
use crate::stalls::{self, Word};
use crate::worker::WorkerRecord;

/// A job that has not ended, and what this process alone knows of it.
pub(super) struct Tracked {
    pub(super) job: Snapshot,
    /// When its gang was placed, or first seen by this process.
    placed: Millis,
    /// Not placed before.
    pub(super) not_before: Millis,
    /// Workers of its gang that registered without its ranks, and when.
    pub(super) absent: BTreeMap<String, Millis>,
    /// Since when ranks wait for another generation.
    waiting: Option<Millis>,
    /// What the ranks of its gang last said of themselves.
    pub(super) words: BTreeMap<u32, Word>,
    /// Ranks that are slow: since when, until that was told.
    pub(super) slow: BTreeMap<u32, Option<Millis>>,
    /// No recruits are started before.
    pub(super) recruits_not_before: Millis,
    /// Recruits that failed since one joined.
    pub(super) recruits_failed: u32,
}

impl Tracked {
    pub(super) fn new(job: Snapshot, now: Millis) -> Self {
        Self {
            job,
            placed: now,
            not_before: Millis(0),
            absent: BTreeMap::new(),
            waiting: None,
            words: BTreeMap::new(),
            slow: BTreeMap::new(),
            recruits_not_before: Millis(0),
            recruits_failed: 0,
        }
    }

    pub(super) fn update(&mut self, job: Snapshot, now: Millis) {
        if job.generation() != self.job.generation() {
            self.placed = now;
            self.absent.clear();
            self.waiting = None;
            self.words.clear();
            self.slow.clear();
        }
        let mut phases = job.record.ranks.values();
        let waits = phases.any(|phase| matches!(phase, RankPhase::Waiting { .. }));
        self.waiting = waits.then(|| self.waiting.unwrap_or(now));
        self.job = job;
    }

    pub(super) fn state(&self) -> State {
        self.job.record.state
    }

    pub(super) fn gang(&self) -> Option<&Gang> {
        self.job.gang.as_ref().map(|(gang, _)| gang)
    }

    /// For the membership, when the job has a gang or is being cancelled.
    pub(super) fn gang_view(&self, now: Millis, wall: u64, fresh: Duration) -> Option<GangView> {
        let state = self.state();
        let gang = match self.gang() {
            Some(gang) => gang.clone(),
            None if state == State::Cancelling => Gang {
                members: Vec::new(),
                formation: Formation::Fresh,
                since: 0,
                reason: String::new(),
            },
            None => return None,
        };
        Some(GangView {
            job_id: self.job.record.job_id.clone(),
            state,
            gang,
            ranks: self.job.record.ranks.clone(),
            placed: self.placed,
            absent: self.absent.clone(),
            waiting: self.waiting,
            stalled: stalls::stalled(now, fresh, &self.words),
            recruits: self.job.record.recruits.clone(),
            min_workers: self.job.record.demand.min_workers,
            infrastructure_restarts: self.job.record.infrastructure_restarts,
            recent_recoveries: self.job.record.recent(wall).count() as u32,
        })
    }

    /// For the scheduler, when the job waits for a gang.
    pub(super) fn waiting(&self) -> Option<Waiting> {
        // While a job recovers, its survivors may hold its place.
        if !matches!(self.state(), State::Queued | State::Recovering) || self.gang().is_some() {
            return None;
        }
        let demand = &self.job.record.demand;
        Some(Waiting {
            job_id: self.job.record.job_id.clone(),
            device: demand.device,
            min_workers: demand.min_workers,
            max_workers: demand.max_workers,
            ranks_per_worker: demand.ranks_per_worker,
            not_before: self.not_before,
        })
    }
}

/// A worker, and what this process alone knows of it.
pub(super) struct Worker {
    pub(super) record: WorkerRecord,
    /// Has registered with this process.
    pub(super) registered: bool,
    /// Number of its last session with this process; 0 before the first.
    pub(super) session: u64,
    /// That session, while open.
    pub(super) link: Option<Link>,
    /// When it was last heard on a session that has ended.
    pub(super) heard_before: Millis,
    /// When its last session with this process ended.
    pub(super) detached: Millis,
}

impl Worker {
    /// When it was last heard.
    pub(super) fn heard(&self) -> Millis {
        self.link.as_ref().map_or(self.heard_before, |link| {
            link.heard().max(self.heard_before)
        })
    }
}
