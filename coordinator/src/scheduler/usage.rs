//! What the queues use, and whose turn it is.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use espalier_job::Device;

use super::view::{KINDS, View, Waiting, kind};
use crate::queue::Queue;

/// Slots in use, by queue and kind of device.
pub(super) struct Usage<'v> {
    queues: &'v BTreeMap<String, Queue>,
    /// Slots of open workers.
    total: [u64; KINDS],
    used: BTreeMap<&'v str, [u64; KINDS]>,
    /// Weights of all queues with jobs of the kind.
    weights: [u64; KINDS],
}

impl<'v> Usage<'v> {
    pub(super) fn of(view: &'v View) -> Self {
        let mut usage = Self {
            queues: &view.queues,
            total: [0; KINDS],
            used: BTreeMap::new(),
            weights: [0; KINDS],
        };
        for worker in &view.workers {
            usage.total[kind(worker.device)] += u64::from(worker.slots);
        }
        let mut active: BTreeSet<(&str, usize)> = BTreeSet::new();
        for gang in &view.gangs {
            let slots = gang.parts.iter().chain(&gang.recruits).map(|p| p.slots);
            let slots = slots.map(u64::from).sum();
            usage.takes(&gang.queue, gang.device, slots);
            active.insert((&gang.queue, kind(gang.device)));
        }
        for job in &view.waiting {
            active.insert((&job.queue, kind(job.device)));
        }
        for (queue, kind) in active {
            usage.weights[kind] += u64::from(usage.queue(queue).weight);
        }
        usage
    }

    fn queue(&self, name: &str) -> Queue {
        self.queues.get(name).copied().unwrap_or_default()
    }

    /// A queue takes further slots.
    pub(super) fn takes(&mut self, queue: &'v str, device: Device, slots: u64) {
        self.used.entry(queue).or_default()[kind(device)] += slots;
    }

    /// Slots that a queue uses.
    pub(super) fn used(&self, queue: &str, device: Device) -> u64 {
        self.used.get(queue).map_or(0, |used| used[kind(device)])
    }

    /// Most slots that a queue may use, if there is a limit.
    pub(super) fn quota(&self, queue: &str, device: Device) -> Option<u32> {
        self.queue(queue).quota(device)
    }

    /// Slots that its weight gives a queue among all that have jobs of the kind.
    pub(super) fn fair(&self, queue: &str, device: Device) -> u64 {
        let kind = kind(device);
        let weight = u64::from(self.queue(queue).weight);
        (self.total[kind] * weight)
            .checked_div(self.weights[kind])
            .unwrap_or(0)
    }

    /// The larger of its shares of the kinds of devices, over its weight: the queue with the smallest
    /// goes first. [dominant resource fairness]
    fn dominance(&self, queue: &str) -> f64 {
        let used = self.used.get(queue).copied().unwrap_or_default();
        let share = |kind: usize| used[kind] as f64 / self.total[kind].max(1) as f64;
        let dominant = (0..KINDS).map(share).fold(0.0, f64::max);
        dominant / f64::from(self.queue(queue).weight.max(1))
    }
}

/// The jobs that wait, by queue.
pub(super) struct Turns<'v>(BTreeMap<&'v str, VecDeque<&'v Waiting>>);

impl<'v> Turns<'v> {
    pub(super) fn of(waiting: &'v [Waiting]) -> Self {
        let mut queues: BTreeMap<&str, Vec<&Waiting>> = BTreeMap::new();
        for job in waiting {
            queues.entry(&job.queue).or_default().push(job);
        }
        let sorted = |mut jobs: Vec<&'v Waiting>| {
            jobs.sort_by_key(|job| {
                let priority = std::cmp::Reverse(job.priority);
                (priority, !job.recovers, job.submitted, &job.job_id)
            });
            VecDeque::from(jobs)
        };
        let queues = queues.into_iter();
        Self(queues.map(|(name, jobs)| (name, sorted(jobs))).collect())
    }

    /// The next job: the first of the queue that uses least for its weight; of several such, of the one
    /// whose first job was submitted first.
    pub(super) fn next(&mut self, usage: &Usage<'_>) -> Option<&'v Waiting> {
        let first = |jobs: &VecDeque<&'v Waiting>| {
            let job = jobs.front()?;
            Some((job.submitted, &job.job_id))
        };
        let (name, _) = self.0.iter().min_by(|(a, jobs_a), (b, jobs_b)| {
            let (used_a, used_b) = (usage.dominance(a), usage.dominance(b));
            used_a
                .total_cmp(&used_b)
                .then_with(|| first(jobs_a).cmp(&first(jobs_b)))
        })?;
        let name = *name;
        let jobs = self.0.get_mut(name)?;
        let job = jobs.pop_front();
        if jobs.is_empty() {
            self.0.remove(name);
        }
        job
    }
}
