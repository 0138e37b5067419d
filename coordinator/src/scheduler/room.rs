//! The slots of the open workers.

use std::collections::{BTreeMap, BTreeSet};

use espalier_job::Device;

use super::view::{Candidate, KINDS, Waiting, kind};

/// Workers by how much they have free.
pub(super) struct Room<'v> {
    workers: Vec<&'v Candidate>,
    index: BTreeMap<&'v str, usize>,
    /// Free slots of each, as changed by what was placed.
    free: Vec<u32>,
    /// Kind, free slots, index of the worker.
    by_free: BTreeSet<(usize, u32, usize)>,
    /// How many can take so many ranks of a kind, until something is placed.
    able: BTreeMap<(usize, u32), usize>,
    /// How many could if they were empty.
    fits: BTreeMap<(usize, u32), usize>,
    of_kind: [usize; KINDS],
}

impl<'v> Room<'v> {
    pub(super) fn of(candidates: &'v [Candidate]) -> Self {
        let mut workers: Vec<&Candidate> = candidates.iter().collect();
        workers.sort_by_key(|worker| &worker.worker_id);
        let mut of_kind = [0; KINDS];
        for worker in &workers {
            of_kind[kind(worker.device)] += 1;
        }
        let indexed = || workers.iter().copied().enumerate();
        Self {
            index: indexed().map(|(i, w)| (w.worker_id.as_str(), i)).collect(),
            free: workers.iter().map(|w| w.free).collect(),
            by_free: indexed()
                .map(|(i, w)| (kind(w.device), w.free, i))
                .collect(),
            able: BTreeMap::new(),
            fits: BTreeMap::new(),
            of_kind,
            workers,
        }
    }

    /// Number of workers of a kind.
    pub(super) fn of_kind(&self, device: Device) -> usize {
        self.of_kind[kind(device)]
    }

    /// Number of workers that can take so many ranks now.
    pub(super) fn able(&mut self, device: Device, ranks: u32) -> usize {
        let kind = kind(device);
        let count = || self.by_free.range(enough(kind, ranks)).count();
        *self.able.entry((kind, ranks)).or_insert_with(count)
    }

    /// Number of workers that could take a part of this job if they were empty.
    pub(super) fn fits(&mut self, job: &Waiting) -> usize {
        let key = (kind(job.device), job.ranks_per_worker);
        let count = || {
            let hosts = |w: &&&Candidate| w.device == job.device && w.slots >= job.ranks_per_worker;
            self.workers.iter().filter(hosts).count()
        };
        *self.fits.entry(key).or_insert_with(count)
    }

    /// Those that are filled best by a part of this job, at most so many; not changed.
    pub(super) fn choose(&self, job: &Waiting, most: u32) -> Vec<usize> {
        let range = self
            .by_free
            .range(enough(kind(job.device), job.ranks_per_worker));
        let mut chosen: Vec<usize> = range
            .map(|(.., worker)| *worker)
            .take(most as usize)
            .collect();
        // Ranks are in the order of the workers' names.
        chosen.sort_unstable();
        chosen
    }

    /// Takes slots of a worker.
    pub(super) fn take(&mut self, worker: usize, slots: u32) {
        let kind = kind(self.workers[worker].device);
        self.by_free.remove(&(kind, self.free[worker], worker));
        self.free[worker] = self.free[worker].saturating_sub(slots);
        self.by_free.insert((kind, self.free[worker], worker));
        self.able.clear();
    }

    /// The workers, by index.
    pub(super) fn workers(&self) -> &[&'v Candidate] {
        &self.workers
    }

    /// Free slots of a worker.
    pub(super) fn free(&self, worker: usize) -> u32 {
        self.free[worker]
    }

    /// The index of a worker, if it is open.
    pub(super) fn find(&self, worker_id: &str) -> Option<usize> {
        self.index.get(worker_id).copied()
    }
}

fn enough(kind: usize, ranks: u32) -> std::ops::RangeInclusive<(usize, u32, usize)> {
    (kind, ranks, 0)..=(kind, u32::MAX, usize::MAX)
}
