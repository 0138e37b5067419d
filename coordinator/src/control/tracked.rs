use std::collections::BTreeMap;
use std::time::Duration;

use super::Link;
use crate::clock::Millis;
use crate::job::{Formation, Gang, RankPhase, Snapshot, State};
use crate::membership::GangView;
use crate::scheduler::{Part, Running, Waiting};
use crate::stalls::{self, Word};
use crate::standing::Standing;
use crate::worker::WorkerRecord;

/// How long a job that was evicted is left alone once it runs again.
const SPARED: Duration = Duration::from_secs(600);

/// How long a worker that was slow for a job gets no ranks of it.
const AVOIDED: Duration = Duration::from_secs(1800);

/// A job that has not ended, and what this process alone knows of it.
pub(super) struct Tracked {
    pub(super) job: Snapshot,
    /// When its generation was placed, or first seen by this process.
    placed: Millis,
    /// When it last went from no gang to one.
    begun: Millis,
    /// When a step of its gang last became durable, or that began.
    durable: Millis,
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
    /// Workers of its gang that are to be let go for being slow, and how slow.
    pub(super) let_go: BTreeMap<String, String>,
    /// Workers that were slow, and when that was seen.
    avoided: BTreeMap<String, Millis>,
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
            begun: now,
            durable: now,
            not_before: Millis(0),
            absent: BTreeMap::new(),
            waiting: None,
            words: BTreeMap::new(),
            slow: BTreeMap::new(),
            let_go: BTreeMap::new(),
            avoided: BTreeMap::new(),
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
        if self.job.gang.is_none() && job.gang.is_some() {
            self.begun = now;
            self.durable = now;
        }
        if job.record.committed_step != self.job.record.committed_step {
            self.durable = now;
        }
        let gang = job.gang.as_ref().map(|(gang, _)| gang);
        self.let_go
            .retain(|id, _| gang.is_some_and(|gang| gang.member(id).is_some()));
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
            leaves: self.job.record.leave.as_ref().map(|leave| {
                let since = wall.saturating_sub(leave.since);
                Duration::from_millis(since)
            }),
            let_go: self.let_go.clone(),
        })
    }

    /// A worker of the gang is too slow for it.
    pub(super) fn lets_go(&mut self, worker: &str, why: &str, now: Millis) {
        self.avoided.retain(|_, seen| now.since(*seen) < AVOIDED);
        self.avoided.insert(worker.to_owned(), now);
        let why = format!("worker {worker} is let go: its rank {why}");
        self.let_go.insert(worker.to_owned(), why);
    }

    /// The worker was too slow for it lately.
    pub(super) fn avoids(&self, worker: &str, now: Millis) -> bool {
        let seen = self.avoided.get(worker);
        seen.is_some_and(|seen| now.since(*seen) < AVOIDED)
    }

    /// Slots that its gang has, with those of its recruits.
    pub(super) fn slots(&self) -> u32 {
        let gang = self.gang().map_or(0, Gang::world_size);
        gang + self.job.record.recruits.len() as u32
    }

    /// For the scheduler, when the job has a gang.
    pub(super) fn running(&self, now: Millis) -> Option<Running> {
        let gang = self.gang()?;
        let record = &self.job.record;
        let state = record.state;
        let stays = record.leave.is_none();
        let steps = record.ranks.len() as u32 == gang.world_size()
            && record.ranks.values().all(|p| *p == RankPhase::Running);
        let part = |worker_id: &str, slots: u32| Part {
            worker_id: worker_id.to_owned(),
            slots,
        };
        let members = gang.members.iter();
        let recruits = record.recruits.iter();
        Some(Running {
            job_id: record.job_id.clone(),
            queue: record.demand.queue.clone(),
            priority: record.demand.priority,
            device: record.demand.device,
            min_workers: record.demand.min_workers,
            parts: members
                .map(|member| part(&member.worker_id, member.seats.len() as u32))
                .collect(),
            recruits: recruits
                .map(|recruit| part(&recruit.worker_id, 1))
                .collect(),
            leaves: !stays,
            shrinks: stays && steps && state == State::Running,
            evicts: stays && matches!(state, State::Placing | State::Running | State::Recovering),
            spared: record.evictions > 0 && now.since(self.begun) < SPARED,
            undurable: now.since(self.durable),
            guest_of: record.guest_of.clone(),
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
            queue: demand.queue.clone(),
            priority: demand.priority,
            recovers: self.state() == State::Recovering,
            submitted: self.job.record.created,
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
    /// What stands between it and gangs.
    pub(super) standing: Standing,
}

impl Worker {
    /// When it was last heard.
    pub(super) fn heard(&self) -> Millis {
        self.link.as_ref().map_or(self.heard_before, |link| {
            link.heard().max(self.heard_before)
        })
    }
}
