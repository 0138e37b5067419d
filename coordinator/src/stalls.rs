//! Which ranks keep their peers waiting: a pure function of what the ranks last said of themselves. One
//! that does not come is as good as lost; one that is slow is told of.

use std::collections::BTreeMap;
use std::time::Duration;

use espalier_proto::v1::{Activity, RankProgress};

use crate::clock::Millis;

/// A rank speaks several times a second. One that has said nothing for this long, while its peers wait,
/// is stopped or its machine hangs.
const SILENCE: Duration = Duration::from_secs(3);

/// As [`SILENCE`], where nobody says that it waits: in a gang of one, or in one that has not met yet.
const LONG_SILENCE: Duration = Duration::from_secs(60);

/// A rank that speaks but has worked this long on what its peers have done is stuck, whatever the median
/// step; [`FACTOR`] times the median step if that is longer.
const FLOOR: Duration = Duration::from_secs(20);
const FACTOR: f64 = 10.0;

/// The same before the first step, which also warms up.
const FIRST: Duration = Duration::from_secs(120);

/// How often the median rank's time a slow rank takes for a micro-batch.
const SLOW: f64 = 2.0;

/// How long it has to be slow to be told of.
pub const SLOW_FOR: Duration = Duration::from_secs(30);

/// Less is noise.
const NOTABLE: Duration = Duration::from_millis(50);

/// The last word of a rank.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Word {
    /// Collective operations that it has entered.
    pub operations: u64,
    /// What it does.
    pub activity: Activity,
    /// For how long.
    pub since: Duration,
    /// How old the word was when it was passed on.
    pub silent: Duration,
    /// Median wall time of its steps; zero before the first.
    pub step: Duration,
    /// Median of its work on a micro-batch; zero before the first.
    pub work: Duration,
    /// When it was passed on.
    pub at: Millis,
}

impl Word {
    /// As it came.
    pub fn new(progress: &RankProgress, at: Millis) -> Self {
        let time = |ms: f64| Duration::try_from_secs_f64(ms / 1000.0).unwrap_or_default();
        Self {
            operations: progress.operations,
            activity: progress.activity(),
            since: Duration::from_millis(progress.for_ms),
            silent: Duration::from_millis(progress.silent_ms),
            step: time(progress.step_ms),
            work: time(progress.work_ms),
            at,
        }
    }

    /// Of a rank that has not come to its new group yet: what it did in the one before says nothing any more.
    pub fn of_before(self) -> Self {
        Self {
            operations: 0,
            activity: Activity::Aside,
            ..self
        }
    }

    /// How long it has been in a collective for certain.
    fn waits(&self) -> Option<Duration> {
        (self.activity == Activity::Waiting && self.silent <= SILENCE).then_some(self.since)
    }
}

/// How long a rank may work on its part while its peers wait.
pub fn patience(median_step: Duration) -> Duration {
    if median_step.is_zero() {
        FIRST
    } else {
        FLOOR.max(median_step.mul_f64(FACTOR))
    }
}

/// The ranks that do not come to their peers, and why that is certain. Words older than `fresh` do not
/// count: their worker is silent, which its lease is for.
pub fn stalled(now: Millis, fresh: Duration, words: &BTreeMap<u32, Word>) -> BTreeMap<u32, String> {
    let known: BTreeMap<u32, &Word> = words
        .iter()
        .filter(|(_, word)| now.since(word.at) <= fresh)
        .map(|(rank, word)| (*rank, word))
        .collect();
    let median_step = known
        .values()
        .map(|word| word.step)
        .max()
        .unwrap_or_default();
    let patience = patience(median_step);
    let cause = |rank: u32, word: &Word| {
        let others = known.iter().filter(|(other, _)| **other != rank);
        let longest = others.clone().filter_map(|(_, other)| other.waits()).max();
        if word.silent > SILENCE {
            let long = word.silent > LONG_SILENCE;
            let missed = longest.is_some_and(|waited| waited > SILENCE);
            return (long || missed).then(|| format!("silent for {}", seconds(word.silent)));
        }
        let ahead = others
            .filter(|(_, other)| other.operations > word.operations)
            .filter_map(|(_, other)| other.waits())
            .max()?;
        let stuck = word.activity == Activity::Working && word.since.min(ahead) > patience;
        stuck.then(|| {
            format!(
                "at work for {} while others wait; the median step takes {}",
                seconds(word.since),
                seconds(median_step)
            )
        })
    };
    known
        .iter()
        .filter_map(|(rank, word)| Some((*rank, cause(*rank, word)?)))
        .collect()
}

/// The ranks that take much longer for a micro-batch than the median rank, and how much.
pub fn slow(words: &BTreeMap<u32, Word>) -> BTreeMap<u32, String> {
    let mut works: Vec<Duration> = words.values().map(|word| word.work).collect();
    works.retain(|work| !work.is_zero());
    works.sort_unstable();
    // Of two ranks, the faster one.
    let Some(median) = works
        .len()
        .checked_sub(1)
        .and_then(|last| works.get(last / 2))
    else {
        return BTreeMap::new();
    };
    let slow = |word: &Word| {
        word.work > median.mul_f64(SLOW) && word.work.saturating_sub(*median) > NOTABLE
    };
    words
        .iter()
        .filter(|(_, word)| slow(word))
        .map(|(rank, word)| {
            let ratio = word.work.as_secs_f64() / median.as_secs_f64();
            let text = format!(
                "takes {ratio:.1} times as long for a micro-batch as the median rank ({:.0} ms, {:.0} ms)",
                word.work.as_secs_f64() * 1000.0,
                median.as_secs_f64() * 1000.0
            );
            (*rank, text)
        })
        .collect()
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FRESH: Duration = Duration::from_secs(5);

    fn word(activity: Activity, operations: u64, since: u64) -> Word {
        Word {
            operations,
            activity,
            since: Duration::from_millis(since),
            silent: Duration::ZERO,
            step: Duration::from_millis(100),
            work: Duration::from_millis(20),
            at: Millis(0),
        }
    }

    fn silent(for_ms: u64, word: Word) -> Word {
        Word {
            silent: Duration::from_millis(for_ms),
            ..word
        }
    }

    fn of(words: &[Word]) -> BTreeMap<u32, Word> {
        (0..).zip(words.iter().copied()).collect()
    }

    fn found(words: &[Word]) -> Vec<u32> {
        stalled(Millis(1000), FRESH, &of(words))
            .into_keys()
            .collect()
    }

    use Activity::{Aside, Waiting, Working};

    #[test]
    fn a_stopped_rank_is_found_by_its_silence_whatever_it_did_last() {
        for last in [word(Working, 8, 5), word(Waiting, 9, 5), word(Aside, 8, 5)] {
            let waiting = word(Waiting, 9, 3400);
            assert_eq!(found(&[waiting, silent(3400, last)]), [1]);
            assert_eq!(found(&[waiting, silent(2900, last)]), [0u32; 0]);
            assert_eq!(
                found(&[word(Waiting, 9, 2000), silent(3400, last)]),
                [0u32; 0]
            );
        }
        let told = stalled(
            Millis(0),
            FRESH,
            &of(&[word(Waiting, 9, 3400), silent(3400, word(Working, 8, 5))]),
        );
        assert_eq!(told[&1], "silent for 3.4 s");
    }

    #[test]
    fn a_rank_that_works_for_far_longer_than_a_step_is_found_and_its_duties_are_left_to_it() {
        let waiting = word(Waiting, 9, 21_000);
        assert_eq!(found(&[waiting, word(Working, 8, 20_500)]), [1]);
        assert_eq!(found(&[waiting, word(Working, 8, 19_500)]), [0u32; 0]);
        assert_eq!(found(&[waiting, word(Aside, 8, 500_000)]), [0u32; 0]);
        // All have entered: the link is slow, nobody is to blame.
        assert_eq!(found(&[waiting, word(Waiting, 9, 20_500)]), [0u32; 0]);
        let first = |word: Word| Word {
            step: Duration::ZERO,
            ..word
        };
        let early = [
            first(word(Waiting, 9, 90_000)),
            first(word(Working, 8, 90_000)),
        ];
        assert_eq!(found(&early), [0u32; 0]);
    }

    #[test]
    fn a_rank_alone_and_a_worker_that_is_silent_have_other_limits() {
        assert_eq!(found(&[silent(50_000, word(Working, 1, 5))]), [0u32; 0]);
        assert_eq!(found(&[silent(61_000, word(Working, 1, 5))]), [0]);
        let before = silent(61_000, word(Waiting, 900, 90_000).of_before());
        assert_eq!(found(&[before, word(Aside, 0, 5)]), [0]);
        let before = silent(100, word(Waiting, 900, 90_000).of_before());
        assert_eq!(found(&[before, word(Working, 3, 90_000)]), [0u32; 0]);
        let words = of(&[word(Waiting, 9, 9000), silent(9000, word(Working, 8, 5))]);
        assert!(stalled(Millis(5001), FRESH, &words).is_empty());
    }

    #[test]
    fn a_slow_rank_is_told_with_its_ratio() {
        let work = |ms| Word {
            work: Duration::from_millis(ms),
            ..word(Working, 1, 1)
        };
        assert!(slow(&of(&[work(100), work(190), work(110)])).is_empty());
        assert!(slow(&of(&[work(1), work(40)])).is_empty());
        let told = slow(&of(&[work(100), work(300), work(120)]));
        assert_eq!(told.keys().collect::<Vec<_>>(), [&1]);
        assert_eq!(
            told[&1],
            "takes 2.5 times as long for a micro-batch as the median rank (300 ms, 120 ms)"
        );
        assert_eq!(slow(&of(&[work(100), work(300)])).len(), 1);
        assert!(slow(&BTreeMap::new()).is_empty());
    }

    proptest! {
        /// Steps of any length, ranks of any speed within the factor: nobody is taken for stalled.
        #[test]
        fn a_healthy_slow_step_is_never_hit(
            step_ms in 1u64..600_000,
            ranks in proptest::collection::vec((0u8..3, 0u64..2, 0u64..1000, 0.0f64..9.0), 1..6),
        ) {
            let words: Vec<Word> = ranks
                .iter()
                .map(|(activity, behind, silence, steps)| {
                    let activity = [Working, Waiting, Aside][usize::from(*activity)];
                    let mut word = word(activity, 9 - behind, (step_ms as f64 * steps) as u64);
                    word.step = Duration::from_millis(step_ms);
                    silent(*silence, word)
                })
                .collect();
            prop_assert_eq!(found(&words), [0u32; 0]);
        }

        #[test]
        fn patience_grows_with_the_step_and_has_a_floor(a in 1u64..1_000_000, b in 1u64..1_000_000) {
            let (short, long) = (Duration::from_millis(a.min(b)), Duration::from_millis(a.max(b)));
            prop_assert!(patience(short) <= patience(long));
            prop_assert!(patience(short) >= FLOOR);
        }
    }
}
