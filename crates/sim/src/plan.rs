//! What a seed means: the cluster, its jobs, its network, and what goes wrong when. Pure.

use std::fmt;
use std::time::Duration;

use espalier_random::{ChaCha8Rng, Rng as _, Stream, rng};

/// What is drawn from a seed, each by a generator of its own.
#[derive(Clone, Copy, Debug)]
#[repr(u64)]
pub(crate) enum Draw {
    Plan = 1,
    Network = 2,
    Ranks = 3,
}

/// The generator of a seed for one thing.
pub(crate) fn draws(seed: u64, what: Draw) -> ChaCha8Rng {
    rng(seed, Stream::Simulation, what as u64, 0)
}

/// A cluster, and what happens to it.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) coordinators: usize,
    /// Slots of each worker.
    pub(crate) workers: Vec<u32>,
    pub(crate) jobs: Vec<JobPlan>,
    pub(crate) network: Quality,
    /// In the order of their times.
    pub(crate) faults: Vec<(Duration, Fault)>,
    /// From then on nothing goes wrong any more.
    pub(crate) calm: Duration,
}

/// A job that is submitted.
#[derive(Clone, Debug)]
pub(crate) struct JobPlan {
    pub(crate) at: Duration,
    pub(crate) min_workers: u32,
    pub(crate) max_workers: u32,
    pub(crate) steps: u64,
    /// Steps between two checkpoints.
    pub(crate) every: u64,
    /// Wall time of a step.
    pub(crate) step: Duration,
    /// The same submit is sent twice at once.
    pub(crate) twice: bool,
    /// When a user cancels it.
    pub(crate) cancelled: Option<Duration>,
}

/// How messages fare.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Quality {
    /// Least time of a message, and how much is added at most, in microseconds.
    pub(crate) delay_us: (u64, u64),
    /// Share of messages that have to be sent again by the network: they come late.
    pub(crate) late: f64,
    /// Share of messages to and from the store that are lost.
    pub(crate) lost: f64,
}

/// A machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Coordinator(usize),
    Worker(usize),
    Store,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// A process ends at once; `silent`, as when its machine loses power: nobody hears of it. It is
    /// started again.
    Kill {
        place: Place,
        silent: bool,
        down: Duration,
    },
    /// A coordinator is told to stop, and started again.
    Stop { coordinator: usize, down: Duration },
    /// Nothing goes in or out for a time, and then all of it.
    Freeze { place: Place, time: Duration },
    /// Messages between two machines wait for a time; both ways, or one.
    Part {
        from: Place,
        to: Place,
        both: bool,
        time: Duration,
    },
    /// Connections of a machine are reset.
    Reset { place: Place },
    /// One of the ranks' processes that run ends; which one is by the number.
    KillRank { pick: u32 },
    /// One of them is stopped, and goes on after a time.
    StallRank { pick: u32, time: Duration },
    /// The store takes longer for each write.
    SlowStore { by: Duration, time: Duration },
}

impl Plan {
    /// Of a seed.
    pub(crate) fn of(seed: u64) -> Self {
        let rng = &mut draws(seed, Draw::Plan);
        let coordinators = rng.random_range(1..=3);
        let workers: Vec<u32> = (0..rng.random_range(2..=4))
            .map(|_| rng.random_range(1..=2))
            .collect();
        let calm = millis(rng, 8000, 28_000);
        let jobs = (0..rng.random_range(1..=3))
            .map(|_| job(rng, workers.len() as u32, calm))
            .collect();
        // A few seeds are peaceful, most are not.
        let count = rng.random_range(0..=10);
        let mut faults: Vec<(Duration, Fault)> = (0..count)
            .map(|_| {
                let at = millis(rng, 500, calm.as_millis() as u64);
                (at, fault(rng, coordinators, workers.len()))
            })
            .collect();
        faults.sort_by_key(|(at, _)| *at);
        Self {
            seed,
            coordinators,
            workers,
            jobs,
            network: Quality {
                delay_us: (rng.random_range(100..5000), rng.random_range(100..20_000)),
                late: f64::from(rng.random_range(0..30)) / 1000.0,
                lost: f64::from(rng.random_range(0..20)) / 1000.0,
            },
            faults,
            calm,
        }
    }
}

fn job(rng: &mut ChaCha8Rng, workers: u32, calm: Duration) -> JobPlan {
    let max_workers = rng.random_range(1..=workers);
    JobPlan {
        at: millis(rng, 0, 5000),
        min_workers: rng.random_range(1..=max_workers),
        max_workers,
        steps: rng.random_range(6..24),
        every: rng.random_range(2..8),
        step: millis(rng, 100, 1000),
        twice: rng.random_bool(0.3),
        cancelled: rng
            .random_bool(0.15)
            .then(|| millis(rng, 1000, calm.as_millis() as u64)),
    }
}

fn fault(rng: &mut ChaCha8Rng, coordinators: usize, workers: usize) -> Fault {
    let coordinator = rng.random_range(0..coordinators);
    let worker = rng.random_range(0..workers);
    let place = if rng.random_bool(0.5) {
        Place::Coordinator(coordinator)
    } else {
        Place::Worker(worker)
    };
    match rng.random_range(0..10) {
        0..=1 => Fault::Kill {
            place,
            silent: rng.random_bool(0.3),
            down: millis(rng, 100, 12_000),
        },
        2 => Fault::Stop {
            coordinator,
            down: millis(rng, 100, 5000),
        },
        3 => Fault::Freeze {
            place,
            time: millis(rng, 200, 12_000),
        },
        4..=5 => {
            let to = match rng.random_range(0..3) {
                0 => Place::Store,
                1 => Place::Coordinator(rng.random_range(0..coordinators)),
                _ => Place::Worker(rng.random_range(0..workers)),
            };
            let from = match to {
                Place::Store => Place::Coordinator(coordinator),
                _ => Place::Worker(worker),
            };
            Fault::Part {
                from,
                to,
                both: rng.random_bool(0.7),
                time: millis(rng, 200, 15_000),
            }
        }
        6 => Fault::Reset { place },
        7 => Fault::KillRank { pick: rng.random() },
        8 => Fault::StallRank {
            pick: rng.random(),
            time: millis(rng, 500, 40_000),
        },
        _ => Fault::SlowStore {
            by: millis(rng, 10, 900),
            time: millis(rng, 1000, 10_000),
        },
    }
}

fn millis(rng: &mut ChaCha8Rng, least: u64, most: u64) -> Duration {
    Duration::from_millis(rng.random_range(least..=most.max(least)))
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Coordinator(index) => write!(f, "c{index}"),
            Self::Worker(index) => write!(f, "w{index}"),
            Self::Store => f.write_str("store"),
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (least, more) = self.network.delay_us;
        writeln!(
            f,
            "{} coordinators, workers of {:?} slots; messages take {:.1} to {:.1} ms, {:.1}% come late, \
             {:.1}% of the store's are lost",
            self.coordinators,
            self.workers,
            least as f64 / 1000.0,
            (least + more) as f64 / 1000.0,
            self.network.late * 100.0,
            self.network.lost * 100.0,
        )?;
        for (number, job) in self.jobs.iter().enumerate() {
            writeln!(f, "job {number}: {job:?}")?;
        }
        for (at, fault) in &self.faults {
            writeln!(f, "{:>7.3} s  {fault:?}", at.as_secs_f64())?;
        }
        write!(f, "{:>7.3} s  calm", self.calm.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_seed_means_one_plan_that_can_be_carried_out(seed in any::<u64>()) {
            let plan = Plan::of(seed);
            prop_assert_eq!(plan.to_string(), Plan::of(seed).to_string());
            prop_assert!(plan.faults.is_sorted_by_key(|(at, _)| *at));
            prop_assert!(plan.faults.iter().all(|(at, _)| *at <= plan.calm));
            for job in &plan.jobs {
                prop_assert!(1 <= job.min_workers && job.min_workers <= job.max_workers);
                prop_assert!(job.max_workers as usize <= plan.workers.len());
            }
        }
    }
}
