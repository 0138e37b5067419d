//! Which job gets which workers: a pure function of the time, the queues, the jobs that wait, the gangs
//! that run and the workers, that gives its reasons. A gang is placed whole or not at all.
//!
//! The queue that uses least for its weight goes first, in it the highest priority. A job for which there
//! is no room takes from others what its priority or its queue's fair share gives it ([`Take`]). If that
//! does not help it heads the line: those behind may pass it, but as its guests, which are evicted when
//! that lets it start. `docs/scheduling.md` has the rules.

mod preempt;
mod room;
mod search;
mod usage;
mod view;
mod words;

use std::collections::BTreeSet;

use crate::clock::Millis;
use crate::job::JobId;
use preempt::Plan;
use room::Room;
use usage::{Turns, Usage};
pub use view::{Candidate, Decision, Part, Place, Running, Take, View, Waiting};
use view::{KINDS, kind};
use words::{at_quota, count, missing, needs, over_quota, plural};

/// Decides over all jobs that wait, in the order of their turns.
pub fn decide(now: Millis, view: &View) -> Vec<Decision> {
    let mut round = Round {
        now,
        view,
        usage: Usage::of(view),
        room: Room::of(&view.workers),
        lines: [Line::Open; KINDS],
        planned: BTreeSet::new(),
        at_quota: BTreeSet::new(),
        unfit: BTreeSet::new(),
    };
    let mut turns = Turns::of(&view.waiting);
    let mut decisions = Vec::with_capacity(view.waiting.len());
    while let Some(job) = turns.next(&round.usage) {
        decisions.push(round.consider(job));
    }
    decisions
}

/// Those who wait for one kind of device.
#[derive(Clone, Copy)]
enum Line<'v> {
    /// Nobody waits yet.
    Open,
    /// This job waits, and others may pass it as its guests.
    Head(&'v Waiting),
    /// This job is about to start: nobody passes it.
    Closed(&'v Waiting),
}

struct Round<'v> {
    now: Millis,
    view: &'v View,
    usage: Usage<'v>,
    room: Room<'v>,
    lines: [Line<'v>; KINDS],
    /// Queues for whose first waiting job a plan was made, by kind.
    planned: BTreeSet<(&'v str, usize)>,
    /// Queues whose quota of a kind is what a job waits for.
    at_quota: BTreeSet<(&'v str, usize)>,
    /// Queues with a job that does not fit the open workers of a kind.
    unfit: BTreeSet<(&'v str, usize)>,
}

impl<'v> Round<'v> {
    fn consider(&mut self, job: &'v Waiting) -> Decision {
        let lane = (job.queue.as_str(), kind(job.device));
        let quota = self.usage.quota(&job.queue, job.device);
        if let Some(quota) = quota.filter(|quota| job.least() > u64::from(*quota)) {
            return wait(job, over_quota(job, quota));
        }
        if self.room.fits(job) < job.min_workers as usize {
            // Those behind it need not wait for workers that may never come. What many are told must not
            // change with every worker: it is stored.
            let first = self.unfit.insert(lane);
            let reason = match first {
                true => missing(job, &mut self.room),
                false => format!("{}; too few are open", needs(job)),
            };
            return wait(job, reason);
        }
        if let Line::Closed(head) = self.lines[lane.1] {
            return wait(job, format!("waits behind job {}", head.job_id));
        }
        if self.at_quota.contains(&lane) {
            let queue = &job.queue;
            let text = format!("waits behind another job of queue {queue}, which is at its quota");
            return wait(job, text);
        }
        if self.now < job.not_before {
            self.lines[lane.1] = Line::Closed(job);
            return wait(job, "pauses before the next restart".to_owned());
        }
        let most = self.most(job, quota);
        let able = self.room.able(job.device, job.ranks_per_worker);
        if most >= job.min_workers && able >= job.min_workers as usize {
            let chosen = self.room.choose(job, most);
            let reason = placed(job, chosen.len(), able);
            return Decision::Place(self.place(job, chosen, reason));
        }
        let reason = match (quota, self.lines[lane.1]) {
            (Some(quota), _) if most < job.min_workers => at_quota(job, quota, &self.usage),
            (_, Line::Head(head)) => format!("waits behind job {}", head.job_id),
            _ => missing(job, &mut self.room),
        };
        if self.planned.insert(lane)
            && let Some(decision) = self.plan(job, quota, &reason)
        {
            self.lines[lane.1] = Line::Closed(job);
            return decision;
        }
        if most < job.min_workers {
            self.at_quota.insert(lane);
        } else if matches!(self.lines[lane.1], Line::Open) {
            self.lines[lane.1] = Line::Head(job);
        }
        wait(job, reason)
    }

    /// Most workers that its quota leaves it.
    fn most(&self, job: &Waiting, quota: Option<u32>) -> u32 {
        let Some(quota) = quota else {
            return job.max_workers;
        };
        let used = self.usage.used(&job.queue, job.device);
        let left = u64::from(quota).saturating_sub(used) / u64::from(job.ranks_per_worker.max(1));
        job.max_workers.min(u32::try_from(left).unwrap_or(u32::MAX))
    }

    /// Takes from others, or waits for those from whom was taken.
    fn plan(&self, job: &Waiting, quota: Option<u32>, reason: &str) -> Option<Decision> {
        let most = match quota {
            // What others give back is theirs alone.
            Some(_) => job.min_workers,
            None => job.max_workers,
        };
        let job_id = job.job_id.clone();
        Some(
            match preempt::plan(job, self.view, &self.usage, &self.room, most)? {
                Plan::Coming(leaving) => {
                    let ids: Vec<&str> = leaving.iter().map(JobId::as_str).collect();
                    wait(job, format!("waits for job {} to leave", ids.join(", ")))
                }
                Plan::Evict(takes) => Decision::Preempt {
                    job_id,
                    takes,
                    place: None,
                    reason: reason.to_owned(),
                },
                Plan::Shrink(takes, chosen) => {
                    let reason = format!(
                        "placed on {} that other jobs gave up or that were free, {} each",
                        count(chosen.len() as u32, "worker"),
                        count(job.ranks_per_worker, "rank"),
                    );
                    let workers = self.names(&chosen);
                    Decision::Preempt {
                        job_id: job_id.clone(),
                        takes,
                        place: Some(Place {
                            job_id,
                            guest_of: self.host(job, &chosen),
                            workers,
                            reason,
                        }),
                        reason: String::new(),
                    }
                }
            },
        )
    }

    fn place(&mut self, job: &'v Waiting, chosen: Vec<usize>, reason: String) -> Place {
        let place = Place {
            job_id: job.job_id.clone(),
            workers: self.names(&chosen),
            guest_of: self.host(job, &chosen),
            reason,
        };
        let slots = u64::from(job.ranks_per_worker) * chosen.len() as u64;
        self.usage.takes(&job.queue, job.device, slots);
        for worker in chosen {
            self.room.take(worker, job.ranks_per_worker);
        }
        place
    }

    fn names(&self, chosen: &[usize]) -> Vec<String> {
        let workers = self.room.workers();
        let name = |worker: &usize| workers[*worker].worker_id.clone();
        chosen.iter().map(name).collect()
    }

    /// The head of the line, if it could use one of these workers.
    fn host(&self, job: &Waiting, chosen: &[usize]) -> Option<JobId> {
        let Line::Head(head) = self.lines[kind(job.device)] else {
            return None;
        };
        let workers = self.room.workers();
        let usable = |worker: &usize| workers[*worker].slots >= head.ranks_per_worker;
        chosen.iter().any(usable).then(|| head.job_id.clone())
    }
}

fn placed(job: &Waiting, chosen: usize, able: usize) -> String {
    format!(
        "placed on {} of {} able {} (asked for {} to {}), {} each",
        chosen,
        able,
        plural(able, "worker"),
        job.min_workers,
        job.max_workers,
        count(job.ranks_per_worker, "rank"),
    )
}

fn wait(job: &Waiting, reason: String) -> Decision {
    Decision::Wait {
        job_id: job.job_id.clone(),
        reason,
    }
}

#[cfg(test)]
mod property_tests;
#[cfg(test)]
mod tests;
