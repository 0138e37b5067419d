//! Times contestants in turn, so that what else the machine does falls on all of them alike.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

/// What one run took, milliseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Lap {
    /// On the wall.
    pub wall_ms: f64,
    /// Of the process on processors, all its threads together: what others do on the machine
    /// delays the wall, this hardly.
    pub processor_ms: f64,
}

impl Lap {
    /// Runs `work`.
    pub(crate) fn of(work: impl FnOnce()) -> Self {
        let (wall, processor) = (Instant::now(), processor_ms());
        work();
        Self {
            wall_ms: wall.elapsed().as_secs_f64() * 1e3,
            processor_ms: processor_ms() - processor,
        }
    }

    fn mean(laps: &[Self]) -> Self {
        let mean =
            |value: fn(&Self) -> f64| laps.iter().map(value).sum::<f64>() / laps.len() as f64;
        Self {
            wall_ms: mean(|lap| lap.wall_ms),
            processor_ms: mean(|lap| lap.processor_ms),
        }
    }
}

fn processor_ms() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 * 1e3 + time.tv_nsec as f64 / 1e6
}

/// How many rounds are run: at least, at most, and until this much time has passed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rounds {
    /// Rounds that are not counted: caches and allocators fill.
    pub warm_up: usize,
    /// Counted rounds, at least.
    pub least: usize,
    /// Counted rounds, at most.
    pub most: usize,
    /// No round starts after this, once there are enough.
    pub time: Duration,
}

/// Runs on the input of this index, and says what it took.
pub(crate) type Contestant<'a, E> = Box<dyn FnMut(usize) -> Result<Lap, E> + 'a>;

/// In each round every contestant runs on each of `inputs` inputs, one after the other on the same
/// input. Gives the rounds' laps by contestant, each the mean over the inputs.
///
/// # Errors
/// The first of a contestant.
pub(crate) fn in_turn<E>(
    contestants: &mut [Contestant<'_, E>],
    inputs: usize,
    rounds: Rounds,
) -> Result<Vec<Vec<Lap>>, E> {
    let mut laps = vec![Vec::new(); contestants.len()];
    let start = Instant::now();
    for round in 0..rounds.warm_up + rounds.most {
        if round >= rounds.warm_up + rounds.least && start.elapsed() > rounds.time {
            break;
        }
        let mut of_round = vec![Vec::with_capacity(inputs); contestants.len()];
        for input in 0..inputs {
            for (contestant, laps) in contestants.iter_mut().zip(&mut of_round) {
                laps.push(contestant(input)?);
            }
        }
        if round >= rounds.warm_up {
            for (laps, of_round) in laps.iter_mut().zip(&of_round) {
                laps.push(Lap::mean(of_round));
            }
        }
    }
    Ok(laps)
}

/// The middle of values and where half of them lie.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// A quarter of the values is below.
    pub low: f64,
    /// Half of the values is below.
    pub median: f64,
    /// Three quarters of the values are below.
    pub high: f64,
}

impl Spread {
    /// Of at least one value.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let quantile = |share: f64| {
            let place = share * (values.len() - 1) as f64;
            let (below, above) = (values[place as usize], values[place.ceil() as usize]);
            below + (above - below) * place.fract()
        };
        Self {
            low: quantile(0.25),
            median: quantile(0.5),
            high: quantile(0.75),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, convert::Infallible};

    use super::*;

    const ROUNDS: Rounds = Rounds {
        warm_up: 1,
        least: 2,
        most: 3,
        time: Duration::MAX,
    };

    #[test]
    fn contestants_take_turns_on_every_input() {
        let order = RefCell::new(Vec::new());
        let contestant = |name: &'static str, factor: f64| -> Contestant<'_, Infallible> {
            let order = &order;
            Box::new(move |input| {
                order.borrow_mut().push((name, input));
                Ok(Lap {
                    wall_ms: factor * (input + 1) as f64,
                    processor_ms: factor,
                })
            })
        };
        let laps = in_turn(&mut [contestant("a", 1.0), contestant("b", 2.0)], 3, ROUNDS).unwrap();
        assert_eq!(
            order.borrow()[..4],
            [("a", 0), ("b", 0), ("a", 1), ("b", 1)]
        );
        assert_eq!(order.borrow().len(), (1 + 3) * 3 * 2);
        let lap = |wall_ms, processor_ms| Lap {
            wall_ms,
            processor_ms,
        };
        assert_eq!(laps, [vec![lap(2.0, 1.0); 3], vec![lap(4.0, 2.0); 3]]);
    }

    #[test]
    fn enough_rounds_end_with_the_time() {
        let rounds = Rounds {
            time: Duration::ZERO,
            ..ROUNDS
        };
        let idle: Contestant<'_, Infallible> = Box::new(|_| Ok(Lap::of(|| ())));
        assert_eq!(in_turn(&mut [idle], 1, rounds).unwrap()[0].len(), 2);
    }

    #[test]
    fn an_error_ends_the_rounds() {
        let failing: Contestant<'_, &str> = Box::new(|_| Err("gone"));
        assert_eq!(in_turn(&mut [failing], 1, ROUNDS), Err("gone"));
    }

    #[test]
    fn work_takes_time_on_the_processor() {
        // Other tests of this process run beside this one, so that two milliseconds on processors
        // may be less on the wall: both are waited for.
        let lap = Lap::of(|| {
            let (wall, processor) = (Instant::now(), processor_ms());
            while wall.elapsed() < Duration::from_millis(2) || processor_ms() - processor < 2.0 {}
        });
        assert!(lap.processor_ms >= 2.0 && lap.wall_ms >= 2.0, "{lap:?}");
    }

    #[test]
    fn quartiles_lie_between_the_values() {
        let spread = Spread::of([4.0, 1.0, 2.0, 3.0]);
        assert_eq!((spread.low, spread.median, spread.high), (1.75, 2.5, 3.25));
        assert_eq!(Spread::of([3.0, 1.0, 2.0]).median, 2.0);
        assert_eq!(Spread::of([5.0]).high, 5.0);
    }
}
