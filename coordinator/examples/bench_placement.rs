//! How fast the scheduler decides: a queue of gangs of mixed sizes, all submitted at once, on mixed nodes,
//! round after round until every gang has been placed and has ended. Beside it in the same run the least
//! that placing takes: first fit, in the order of submits, without queues, priorities or reasons.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use clap::Parser;
use espalier_coordinator::clock::Millis;
use espalier_coordinator::job::JobId;
use espalier_coordinator::queue::Queue;
use espalier_coordinator::scheduler::{
    self, Candidate, Decision, Part, Place, Running, Take, View, Waiting,
};
use espalier_job::Device;
use espalier_random::{Rng as _, Stream, rng};

#[derive(Parser)]
struct Args {
    /// Gangs to place.
    #[arg(long, default_value_t = 15_000)]
    gangs: u64,
    /// Machines, of 1, 2, 4, 8 and 16 slots, a quarter of them without GPUs.
    #[arg(long, default_value_t = 500)]
    workers: u64,
    /// Seed of the sizes, queues, priorities and lengths.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn main() {
    let args = Args::parse();
    let (jobs, lengths) = jobs(&args);
    let workers = workers(&args);
    let slots: u32 = workers.iter().map(|worker| worker.slots).sum();
    let by_rules = run(&jobs, &lengths, workers.clone(), |view| {
        scheduler::decide(Millis(0), view)
    });
    let first_fit = run(&jobs, &lengths, workers, first_fit);
    println!(
        "{} gangs on {} workers with {slots} slots, seed {}",
        args.gangs, args.workers, args.seed
    );
    for (name, told) in [("scheduler", &by_rules), ("first fit", &first_fit)] {
        let seconds = told.spent.as_secs_f64();
        println!(
            "{name}: {:.2} s in all, {:.0} placements/s; {} placements, {} evictions, {} rounds, the longest {:.0} ms; {:.1}% of the slots in use while gangs waited",
            seconds,
            told.placements as f64 / seconds,
            told.placements,
            told.evictions,
            told.rounds,
            told.longest.as_secs_f64() * 1e3,
            100.0 * told.used / f64::from(slots),
        );
    }
    println!(
        "scheduler over first fit, time: {:.2}",
        by_rules.spent.as_secs_f64() / first_fit.spent.as_secs_f64()
    );
}

/// Gangs of one to eight workers with one to eight ranks each, a third of them elastic, in three queues;
/// and how many rounds each runs.
fn jobs(args: &Args) -> (BTreeMap<JobId, Waiting>, BTreeMap<JobId, u32>) {
    let mut lengths = BTreeMap::new();
    let jobs = (0..args.gangs).map(|n| {
        let mut draw = rng(args.seed, Stream::Shuffle, n, 0);
        let job_id = JobId::numbered(n + 1);
        lengths.insert(job_id.clone(), draw.random_range(1..20));
        let min_workers = [1, 1, 1, 2, 2, 4, 8][draw.random_range(0..7)];
        let elastic = draw.random_range(0..3) == 0;
        let job = Waiting {
            job_id: job_id.clone(),
            queue: ["default", "research", "product"][draw.random_range(0..3)].to_owned(),
            priority: [0, 0, 0, 0, 5, -5][draw.random_range(0..6)],
            recovers: false,
            submitted: n,
            device: [Device::Cuda, Device::Cuda, Device::Cpu][draw.random_range(0..3)],
            min_workers,
            max_workers: if elastic {
                2 * min_workers
            } else {
                min_workers
            },
            ranks_per_worker: [1, 1, 1, 2, 4, 8][draw.random_range(0..6)],
            not_before: Millis(0),
        };
        (job_id, job)
    });
    let jobs = jobs.collect();
    (jobs, lengths)
}

fn workers(args: &Args) -> Vec<Candidate> {
    let worker = |n: u64| {
        let mut draw = rng(args.seed, Stream::Shuffle, n, 1);
        let slots = [1, 2, 4, 8, 8, 16][draw.random_range(0..6)];
        Candidate {
            worker_id: format!("w{n:05}"),
            device: if n.is_multiple_of(4) {
                Device::Cpu
            } else {
                Device::Cuda
            },
            slots,
            free: slots,
        }
    };
    (0..args.workers).map(worker).collect()
}

/// What came of a run.
#[derive(Default)]
struct Told {
    spent: Duration,
    longest: Duration,
    rounds: u32,
    placements: u64,
    evictions: u64,
    /// Slots in use, the mean over the rounds in which gangs waited.
    used: f64,
}

/// A cluster in which time goes in rounds.
struct Cluster<'a> {
    view: View,
    jobs: &'a BTreeMap<JobId, Waiting>,
    lengths: &'a BTreeMap<JobId, u32>,
    index: BTreeMap<String, usize>,
    /// Rounds that each gang has left.
    left: BTreeMap<JobId, u32>,
}

/// Rounds until every gang has ended. Who is evicted leaves at once, and has its whole length again.
fn run(
    jobs: &BTreeMap<JobId, Waiting>,
    lengths: &BTreeMap<JobId, u32>,
    workers: Vec<Candidate>,
    decide: impl Fn(&View) -> Vec<Decision>,
) -> Told {
    let slots: u32 = workers.iter().map(|worker| worker.slots).sum();
    let weight = |weight| Queue {
        weight,
        ..Queue::default()
    };
    let queues = [("research", weight(2)), ("product", weight(4))];
    let mut cluster = Cluster {
        index: (0..)
            .zip(&workers)
            .map(|(index, worker)| (worker.worker_id.clone(), index))
            .collect(),
        view: View {
            queues: queues.map(|(name, queue)| (name.to_owned(), queue)).into(),
            waiting: jobs.values().cloned().collect(),
            gangs: Vec::new(),
            workers,
        },
        jobs,
        lengths,
        left: BTreeMap::new(),
    };
    let (mut told, mut crowded) = (Told::default(), 0);
    loop {
        let started = Instant::now();
        let decisions = decide(&cluster.view);
        let spent = started.elapsed();
        told.spent += spent;
        told.longest = told.longest.max(spent);
        told.rounds += 1;
        for decision in decisions {
            cluster.act(decision, &mut told);
        }
        let left = &cluster.left;
        cluster
            .view
            .waiting
            .retain(|job| !left.contains_key(&job.job_id));
        if cluster.view.gangs.is_empty() {
            let never = cluster.view.waiting.len();
            assert!(never == 0, "{never} gangs fit nowhere: take more workers");
            break;
        }
        if !cluster.view.waiting.is_empty() {
            let free: u32 = cluster.view.workers.iter().map(|worker| worker.free).sum();
            told.used += f64::from(slots - free);
            crowded += 1;
        }
        cluster.pass();
    }
    told.used /= f64::from(crowded.max(1));
    told
}

impl Cluster<'_> {
    fn act(&mut self, decision: Decision, told: &mut Told) {
        match decision {
            Decision::Wait { .. } => {}
            Decision::Place(place) => self.begin(place, told),
            Decision::Preempt { takes, place, .. } => {
                for take in takes {
                    match take {
                        Take::Evict { job_id, .. } => {
                            told.evictions += 1;
                            self.give_up(&job_id, None);
                        }
                        Take::Shrink {
                            job_id, workers, ..
                        } if place.is_some() => self.give_up(&job_id, Some(&workers)),
                        Take::Shrink { .. } => {}
                    }
                }
                if let Some(place) = place {
                    self.begin(place, told);
                }
            }
        }
    }

    fn begin(&mut self, place: Place, told: &mut Told) {
        told.placements += 1;
        let job = &self.jobs[&place.job_id];
        let slots = job.ranks_per_worker;
        for worker in &place.workers {
            self.view.workers[self.index[worker]].free -= slots;
        }
        let parts = place.workers.into_iter();
        self.view.gangs.push(Running {
            job_id: job.job_id.clone(),
            queue: job.queue.clone(),
            priority: job.priority,
            device: job.device,
            min_workers: job.min_workers,
            parts: parts.map(|worker_id| Part { worker_id, slots }).collect(),
            recruits: Vec::new(),
            leaves: false,
            shrinks: true,
            evicts: true,
            spared: false,
            undurable: Duration::ZERO,
            guest_of: place.guest_of,
        });
        let length = self.lengths[&job.job_id];
        self.left.insert(job.job_id.clone(), length);
    }

    /// A gang loses these workers, or all of them, and then waits again.
    fn give_up(&mut self, job_id: &JobId, workers: Option<&[String]>) {
        let View {
            gangs,
            waiting,
            workers: all,
            ..
        } = &mut self.view;
        let index = &self.index;
        gangs.retain_mut(|gang| {
            if gang.job_id != *job_id {
                return true;
            }
            gang.parts.retain(|part| {
                let goes = workers.is_none_or(|lost| lost.contains(&part.worker_id));
                if goes {
                    all[index[&part.worker_id]].free += part.slots;
                }
                !goes
            });
            workers.is_some()
        });
        if workers.is_none() {
            self.left.remove(job_id);
            waiting.push(self.jobs[job_id].clone());
        }
    }

    /// All gangs come a round nearer to their ends.
    fn pass(&mut self) {
        let View { gangs, workers, .. } = &mut self.view;
        let (left, index) = (&mut self.left, &self.index);
        gangs.retain(|gang| {
            let rest = left.get(&gang.job_id).map_or(0, |rest| rest - 1);
            if rest == 0 {
                left.remove(&gang.job_id);
                for part in &gang.parts {
                    workers[index[&part.worker_id]].free += part.slots;
                }
            } else {
                left.insert(gang.job_id.clone(), rest);
            }
            rest > 0
        });
    }
}

/// Whoever fits, in the order of submits, on the first workers that do.
fn first_fit(view: &View) -> Vec<Decision> {
    let mut workers = view.workers.clone();
    let place = |job: &Waiting| {
        let fits = |worker: &&mut Candidate| {
            worker.device == job.device && worker.free >= job.ranks_per_worker
        };
        let chosen = workers
            .iter_mut()
            .filter(fits)
            .take(job.max_workers as usize);
        let mut chosen: Vec<&mut Candidate> = chosen.collect();
        if chosen.len() < job.min_workers as usize {
            return None;
        }
        let ids = chosen.iter_mut().map(|worker| {
            worker.free -= job.ranks_per_worker;
            worker.worker_id.clone()
        });
        Some(Decision::Place(Place {
            job_id: job.job_id.clone(),
            workers: ids.collect(),
            guest_of: None,
            reason: String::new(),
        }))
    };
    view.waiting.iter().filter_map(place).collect()
}
