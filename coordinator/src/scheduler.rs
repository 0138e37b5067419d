//! Which job gets which workers: first come, first served among the jobs of a device kind, each a
//! gang that is placed whole or not at all. A pure function that gives its reasons.

use std::collections::BTreeMap;

use espalier_job::Device;

use crate::clock::Millis;
use crate::job::JobId;

/// A job without a gang.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// The job.
    pub job_id: JobId,
    /// Kind of device its ranks need.
    pub device: Device,
    /// Fewest workers it runs on, at least 1.
    pub min_workers: u32,
    /// Most workers it takes, at least `min_workers`.
    pub max_workers: u32,
    /// Ranks on each worker, at least 1.
    pub ranks_per_worker: u32,
    /// Not placed before this time (pause between restarts).
    pub not_before: Millis,
}

/// A worker with a live session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The worker.
    pub worker_id: String,
    /// Kind of its devices.
    pub device: Device,
    /// Ranks it can still take.
    pub free: u32,
}

/// What happens to a waiting job, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Start the gang on these workers, in the order of their ranks.
    Place {
        /// The job.
        job_id: JobId,
        /// Workers in the order of their ranks, each with the job's `ranks_per_worker` ranks.
        workers: Vec<String>,
        /// Why these.
        reason: String,
    },
    /// Go on waiting.
    Wait {
        /// The job.
        job_id: JobId,
        /// What it waits for.
        reason: String,
    },
}

/// Decides over the whole queue, whose order is the order of service. A job that has to wait holds
/// back those behind it that need the same kind of device, so that no gang starves.
pub fn decide(now: Millis, queue: &[Waiting], workers: &[Candidate]) -> Vec<Decision> {
    let mut free: Vec<Candidate> = workers.to_vec();
    free.sort_by(|a, b| {
        b.free
            .cmp(&a.free)
            .then_with(|| a.worker_id.cmp(&b.worker_id))
    });
    let mut heads: BTreeMap<&'static str, JobId> = BTreeMap::new();
    let mut decisions = Vec::with_capacity(queue.len());
    for job in queue {
        let device = name(job.device);
        let decision = match heads.get(device) {
            Some(head) => wait(job, format!("waits behind job {head}")),
            None => place(now, job, &mut free),
        };
        if matches!(decision, Decision::Wait { .. }) {
            heads.entry(device).or_insert_with(|| job.job_id.clone());
        }
        decisions.push(decision);
    }
    decisions
}

fn place(now: Millis, job: &Waiting, free: &mut [Candidate]) -> Decision {
    if now < job.not_before {
        return wait(job, "pauses before the next restart".to_owned());
    }
    let fits =
        |worker: &Candidate| worker.device == job.device && worker.free >= job.ranks_per_worker;
    let able = free.iter().filter(|worker| fits(worker)).count();
    if able < job.min_workers as usize {
        return wait(job, missing(job, able, free));
    }
    let mut chosen: Vec<String> = Vec::new();
    for worker in free.iter_mut() {
        if chosen.len() < job.max_workers as usize && fits(worker) {
            worker.free -= job.ranks_per_worker;
            chosen.push(worker.worker_id.clone());
        }
    }
    chosen.sort();
    let reason = format!(
        "placed on {} of {} able {} (asked for {} to {}), {} each",
        chosen.len(),
        able,
        plural(able, "worker"),
        job.min_workers,
        job.max_workers,
        count(job.ranks_per_worker, "rank"),
    );
    Decision::Place {
        job_id: job.job_id.clone(),
        workers: chosen,
        reason,
    }
}

fn missing(job: &Waiting, able: usize, workers: &[Candidate]) -> String {
    let device = name(job.device);
    let of_kind = workers.iter().filter(|w| w.device == job.device).count();
    let need = format!(
        "waits for {} with {} free",
        count(job.min_workers, &format!("{device} worker")),
        count(job.ranks_per_worker, "slot"),
    );
    match (of_kind, able) {
        (0, _) => format!("{need}; no {device} worker is connected"),
        (n, able) => format!("{need}; {able} of {n} connected can take it now"),
    }
}

fn wait(job: &Waiting, reason: String) -> Decision {
    Decision::Wait {
        job_id: job.job_id.clone(),
        reason,
    }
}

fn name(device: Device) -> &'static str {
    match device {
        Device::Cpu => "cpu",
        Device::Cuda => "cuda",
    }
}

fn plural(n: usize, noun: &str) -> String {
    if n == 1 {
        noun.to_owned()
    } else {
        format!("{noun}s")
    }
}

fn count(n: u32, noun: &str) -> String {
    format!("{n} {}", plural(n as usize, noun))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn job(id: &str, min: u32, max: u32, ranks: u32) -> Waiting {
        Waiting {
            job_id: JobId::new(id),
            device: Device::Cpu,
            min_workers: min,
            max_workers: max,
            ranks_per_worker: ranks,
            not_before: Millis(0),
        }
    }

    fn worker(id: &str, free: u32) -> Candidate {
        Candidate {
            worker_id: id.to_owned(),
            device: Device::Cpu,
            free,
        }
    }

    fn placed(decision: &Decision) -> Option<&[String]> {
        match decision {
            Decision::Place { workers, .. } => Some(workers),
            Decision::Wait { .. } => None,
        }
    }

    fn reason(decision: &Decision) -> &str {
        match decision {
            Decision::Place { reason, .. } | Decision::Wait { reason, .. } => reason,
        }
    }

    #[test]
    fn takes_as_many_workers_as_the_job_allows() {
        let workers = [worker("a", 1), worker("b", 2), worker("c", 1)];
        let decisions = decide(Millis(0), &[job("j1", 1, 2, 1)], &workers);
        assert_eq!(placed(&decisions[0]).unwrap(), ["a", "b"]);
        assert_eq!(
            reason(&decisions[0]),
            "placed on 2 of 3 able workers (asked for 1 to 2), 1 rank each"
        );
    }

    #[test]
    fn says_what_is_missing() {
        let none = decide(Millis(0), &[job("j1", 2, 2, 1)], &[]);
        assert_eq!(
            reason(&none[0]),
            "waits for 2 cpu workers with 1 slot free; no cpu worker is connected"
        );
        let busy = decide(Millis(0), &[job("j1", 1, 1, 4)], &[worker("a", 3)]);
        assert_eq!(
            reason(&busy[0]),
            "waits for 1 cpu worker with 4 slots free; 0 of 1 connected can take it now"
        );
    }

    #[test]
    fn a_waiting_head_holds_back_its_own_kind_only() {
        let mut gpu = job("j1", 1, 1, 1);
        gpu.device = Device::Cuda;
        let queue = [
            gpu,
            job("j2", 2, 2, 1),
            job("j3", 1, 1, 1),
            job("j4", 1, 1, 1),
        ];
        let decisions = decide(Millis(0), &queue, &[worker("a", 1)]);
        assert!(decisions.iter().all(|d| placed(d).is_none()));
        assert_eq!(reason(&decisions[2]), "waits behind job j2");
        let decisions = decide(Millis(0), &queue[..1], &[worker("a", 1)]);
        assert!(reason(&decisions[0]).contains("no cuda worker"));
        let decisions = decide(
            Millis(0),
            &[queue[0].clone(), queue[2].clone()],
            &[worker("a", 1)],
        );
        assert_eq!(placed(&decisions[1]).unwrap(), ["a"]);
    }

    #[test]
    fn a_pause_keeps_the_place_in_the_queue() {
        let mut paused = job("j1", 1, 1, 1);
        paused.not_before = Millis(10);
        let queue = [paused, job("j2", 1, 1, 1)];
        let early = decide(Millis(9), &queue, &[worker("a", 1)]);
        assert!(early.iter().all(|d| placed(d).is_none()));
        let due = decide(Millis(10), &queue, &[worker("a", 1)]);
        assert_eq!(placed(&due[0]).unwrap(), ["a"]);
    }

    proptest! {
        #[test]
        fn no_gang_is_half_placed_and_no_slot_is_given_twice(
            jobs in proptest::collection::vec((1u32..4, 0u32..3, 1u32..3, any::<bool>()), 0..8),
            slots in proptest::collection::vec((0u32..5, any::<bool>()), 0..6),
        ) {
            let kind = |cuda: bool| if cuda { Device::Cuda } else { Device::Cpu };
            let queue: Vec<Waiting> = jobs.iter().enumerate().map(|(i, (min, more, ranks, cuda))| {
                let mut job = job(&format!("j{i}"), *min, min + more, *ranks);
                job.device = kind(*cuda);
                job
            }).collect();
            let workers: Vec<Candidate> = slots.iter().enumerate().map(|(i, (free, cuda))| Candidate {
                worker_id: format!("w{i}"),
                device: kind(*cuda),
                free: *free,
            }).collect();
            let decisions = decide(Millis(0), &queue, &workers);
            prop_assert_eq!(&decisions, &decide(Millis(0), &queue, &workers));
            prop_assert_eq!(decisions.len(), queue.len());
            let mut left: BTreeMap<&str, u32> =
                workers.iter().map(|w| (w.worker_id.as_str(), w.free)).collect();
            let mut stopped = [false; 2];
            for (job, decision) in queue.iter().zip(&decisions) {
                let lane = usize::from(job.device == Device::Cuda);
                let Some(chosen) = placed(decision) else { stopped[lane] = true; continue };
                prop_assert!(!stopped[lane], "overtook the head of its queue");
                prop_assert!(chosen.len() >= job.min_workers as usize);
                prop_assert!(chosen.len() <= job.max_workers as usize);
                for worker in chosen {
                    let device = workers.iter().find(|w| &w.worker_id == worker).unwrap().device;
                    prop_assert_eq!(device, job.device);
                    let free = left.get_mut(worker.as_str()).unwrap();
                    prop_assert!(*free >= job.ranks_per_worker);
                    *free -= job.ranks_per_worker;
                }
            }
        }
    }
}
