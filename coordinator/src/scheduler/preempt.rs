//! From whom slots are taken for a job that waits: planned whole, and only if the job can then be placed.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::room::Room;
use super::search::{self, BUDGET, Goal, Unit};
use super::usage::Usage;
use super::view::{Part, Running, Take, View, Waiting};
use super::words::claim;
use crate::job::JobId;

/// How a job comes to its slots.
pub(super) enum Plan {
    /// Others have been told to leave, which is enough.
    Coming(Vec<JobId>),
    /// Some of these have to leave first.
    Evict(Vec<Take>),
    /// At once, on these workers.
    Shrink(Vec<Take>, Vec<usize>),
}

/// On what ground something may be taken, the first before the next.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Ground {
    /// The gang was placed past the job.
    Guest,
    /// Its queue is above its fair share, the job's below.
    Reclaim,
    /// The job's priority in their queue.
    Priority,
}

/// The purse of what may be taken without a limit, and that of the job's own queue.
const FREE: usize = 0;
const OWN: usize = 1;

/// What can be done for a job that cannot be placed; none if nothing.
pub(super) fn plan(
    job: &Waiting,
    view: &View,
    usage: &Usage<'_>,
    room: &Room<'_>,
    most: u32,
) -> Option<Plan> {
    let survey = Survey::new(job, view, usage, room);
    let coming = survey.goal(true);
    let evictions = survey.evictions();
    let (shrinks, hosts): (Vec<Unit>, Vec<&str>) = survey.shrinks().into_iter().unzip();
    let found = search::smallest(&coming, &evictions, &shrinks, BUDGET)?;
    if found.evictions.is_empty() && found.shrinks.is_empty() {
        return Some(Plan::Coming(survey.leaving()));
    }
    let mut free: Vec<Option<u32>> = survey.goal(false).free;
    let mut lost: BTreeMap<usize, Vec<String>> = BTreeMap::new();
    let mut returned = 0;
    for &index in &found.shrinks {
        let unit = &shrinks[index];
        for &(worker, slots) in &unit.frees {
            free[worker] = free[worker].map(|free| free + slots);
        }
        returned += if unit.purse == OWN { unit.slots } else { 0 };
        let worker = hosts[index].to_owned();
        lost.entry(unit.gang).or_default().push(worker);
    }
    let shrink = |(gang, workers)| {
        let gang: &Running = &view.gangs[gang];
        Take::Shrink {
            job_id: gang.job_id.clone(),
            workers,
            reason: claim(job, gang),
        }
    };
    let mut takes: Vec<Take> = lost.into_iter().map(shrink).collect();
    if !found.evictions.is_empty() {
        takes.extend(found.evictions.iter().map(|&index| {
            let gang = &view.gangs[evictions[index].gang];
            Take::Evict {
                job_id: gang.job_id.clone(),
                reason: claim(job, gang),
            }
        }));
        return Some(Plan::Evict(takes));
    }
    let mut able: Vec<(u32, usize)> = (0..)
        .zip(&free)
        .filter_map(|(worker, free)| {
            Some((free.filter(|free| *free >= job.ranks_per_worker)?, worker))
        })
        .collect();
    if able.len() < job.min_workers as usize || returned < survey.debt {
        // Others that leave have to be gone as well.
        return Some(Plan::Coming(survey.leaving()));
    }
    able.sort_unstable();
    let mut workers: Vec<usize> = able.into_iter().map(|(_, worker)| worker).collect();
    workers.truncate(most as usize);
    workers.sort_unstable();
    Some(Plan::Shrink(takes, workers))
}

/// The gangs as a job that waits sees them.
struct Survey<'a> {
    job: &'a Waiting,
    gangs: &'a [Running],
    room: &'a Room<'a>,
    /// On what ground each gang is open to it.
    grounds: Vec<Option<Ground>>,
    /// The purse of each gang.
    purses: Vec<usize>,
    /// Most slots that may be taken of each purse.
    limits: Vec<u64>,
    /// Slots that its own queue has to give back before it may have so many.
    debt: u64,
}

impl<'a> Survey<'a> {
    fn new(job: &'a Waiting, view: &'a View, usage: &Usage<'_>, room: &'a Room<'a>) -> Self {
        let below =
            usage.used(&job.queue, job.device) + job.least() <= usage.fair(&job.queue, job.device);
        let mut limits = vec![u64::MAX, u64::MAX];
        let mut foreign: BTreeMap<&str, usize> = BTreeMap::new();
        let (mut grounds, mut purses) = (Vec::new(), Vec::new());
        for gang in &view.gangs {
            let own = gang.queue == job.queue;
            let guest = gang.guest_of.as_ref() == Some(&job.job_id);
            let ground = match () {
                () if gang.device != job.device || gang.leaves => None,
                () if guest => Some(Ground::Guest),
                () if own && gang.priority <= job.priority => Some(Ground::Priority),
                () if !own && below => Some(Ground::Reclaim),
                () => None,
            };
            purses.push(match ground {
                _ if own => OWN,
                Some(Ground::Reclaim) => *foreign.entry(&gang.queue).or_insert_with(|| {
                    let used = usage.used(&gang.queue, gang.device);
                    limits.push(used.saturating_sub(usage.fair(&gang.queue, gang.device)));
                    limits.len() - 1
                }),
                _ => FREE,
            });
            grounds.push(ground);
        }
        let mut survey = Self {
            job,
            gangs: &view.gangs,
            room,
            grounds,
            purses,
            limits,
            debt: 0,
        };
        survey.debt = survey.owed(usage);
        survey
    }

    fn owed(&self, usage: &Usage<'_>) -> u64 {
        let wanted = usage.used(&self.job.queue, self.job.device) + self.job.least();
        let quota = usage.quota(&self.job.queue, self.job.device);
        quota.map_or(0, |quota| wanted.saturating_sub(u64::from(quota)))
    }

    /// What is to be reached; with `coming`, those that have been told to leave count as gone.
    fn goal(&self, coming: bool) -> Goal {
        let job = self.job;
        let hosts = |worker: usize| {
            let candidate = self.room.workers()[worker];
            candidate.device == job.device && candidate.slots >= job.ranks_per_worker
        };
        let mut free: Vec<Option<u32>> = (0..self.room.workers().len())
            .map(|worker| hosts(worker).then(|| self.room.free(worker)))
            .collect();
        let mut debt = self.debt;
        for gang in self.gangs.iter().filter(|gang| coming && gang.leaves) {
            for (worker, slots) in self.frees(gang.parts.iter().chain(&gang.recruits)) {
                free[worker] = free[worker].map(|free| free + slots);
            }
            if gang.queue == job.queue && gang.device == job.device {
                debt = debt.saturating_sub(slots(gang));
            }
        }
        Goal {
            ranks: job.ranks_per_worker,
            workers: job.min_workers as usize,
            slots: (OWN, debt),
            free,
            spare: self
                .gangs
                .iter()
                .map(|gang| (gang.parts.len() as u32).saturating_sub(gang.min_workers))
                .collect(),
            purses: self.limits.clone(),
        }
    }

    fn leaving(&self) -> Vec<JobId> {
        let leaves = |gang: &&Running| gang.leaves && gang.device == self.job.device;
        let leaving = self.gangs.iter().filter(leaves);
        leaving.map(|gang| gang.job_id.clone()).collect()
    }

    /// Slots of workers that the job could use.
    fn frees<'p>(&self, parts: impl Iterator<Item = &'p Part>) -> Vec<(usize, u32)> {
        parts
            .filter_map(|part| Some((self.room.find(&part.worker_id)?, part.slots)))
            .filter(|(worker, _)| {
                let candidate = self.room.workers()[*worker];
                candidate.device == self.job.device && candidate.slots >= self.job.ranks_per_worker
            })
            .collect()
    }

    fn useful(&self, unit: &Unit) -> bool {
        !unit.frees.is_empty() || (self.debt > 0 && unit.purse == OWN)
    }

    /// Gangs that may be sent back to the queue: those that were placed past it first, then the lowest
    /// priority, then the least that could be lost.
    fn evictions(&self) -> Vec<Unit> {
        let mut open: Vec<(_, Unit)> = Vec::new();
        for (index, gang) in self.gangs.iter().enumerate() {
            let Some(ground) = self.grounds[index] else {
                continue;
            };
            let lower = gang.priority < self.job.priority;
            let may = match ground {
                Ground::Guest => true,
                Ground::Reclaim => !gang.spared,
                Ground::Priority => lower && !gang.spared,
            };
            let unit = Unit {
                gang: index,
                frees: self.frees(gang.parts.iter().chain(&gang.recruits)),
                slots: slots(gang),
                purse: self.purses[index],
            };
            if gang.evicts && may && self.useful(&unit) {
                let key = (ground, gang.priority, gang.undurable, Reverse(&gang.job_id));
                open.push((key, unit));
            }
        }
        open.sort_by_key(|(key, _)| *key);
        open.into_iter().map(|(_, unit)| unit).collect()
    }

    /// Parts of gangs that go on without them, each with its worker; that of rank 0 last.
    fn shrinks(&self) -> Vec<(Unit, &'a str)> {
        let mut open: Vec<(_, (Unit, &str))> = Vec::new();
        for (index, gang) in self.gangs.iter().enumerate() {
            let Some(ground) = self.grounds[index].filter(|_| gang.shrinks) else {
                continue;
            };
            for (position, part) in gang.parts.iter().enumerate() {
                let unit = Unit {
                    gang: index,
                    frees: self.frees(std::iter::once(part)),
                    slots: u64::from(part.slots),
                    purse: self.purses[index],
                };
                if self.useful(&unit) {
                    let newest = (Reverse(&gang.job_id), Reverse(position));
                    let key = (ground, gang.priority, position == 0, newest);
                    open.push((key, (unit, part.worker_id.as_str())));
                }
            }
        }
        open.sort_by_key(|(key, _)| *key);
        open.into_iter().map(|(_, unit)| unit).collect()
    }
}

fn slots(gang: &Running) -> u64 {
    let parts = gang.parts.iter().chain(&gang.recruits);
    parts.map(|part| u64::from(part.slots)).sum()
}
