//! What each step of a job is: its stage, its micro-batches, and every schedule. Pure.

use std::ops::Range;

use espalier_job::{Adapt, Budgets, Compress, Job, Mode, Schedule};
use espalier_random::{Rng as _, Stream, rng};
use espalier_vit::Budget;
use serde::{Deserialize, Serialize};

/// A stage of a job. [paper]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// The baseline: the dense model, nothing pruned, nothing gated.
    Dense,
    /// Weights, alpha and, but in sequential mode, gates together, under a soft budget.
    Search,
    /// The sliced model and its gates, hard structure.
    Tune,
}

impl Stage {
    /// The name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dense => "dense",
            Self::Search => "search",
            Self::Tune => "tune",
        }
    }
}

/// A step within its stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The stage.
    pub stage: Stage,
    /// Steps of the stage before this one.
    pub index: u64,
    /// Steps of the stage.
    pub len: u64,
}

impl Position {
    /// Share of the stage that is done before the step, in [0, 1).
    pub fn progress(&self) -> f64 {
        self.index as f64 / self.len as f64
    }
}

/// Stages and their lengths. Steps count from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    mode: Mode,
    search: u64,
    tune: u64,
}

impl Plan {
    /// The plan of `job` when an epoch has `steps_per_epoch` steps.
    pub fn new(job: &Job, steps_per_epoch: u64) -> Self {
        Self {
            mode: job.compress.mode,
            search: job.compress.search.steps(steps_per_epoch),
            tune: job.compress.tune.steps(steps_per_epoch),
        }
    }

    /// Steps of the whole job.
    pub fn total(&self) -> u64 {
        self.search + self.tune
    }

    /// The last step of the search stage, after which the model is sliced; none in dense mode.
    pub fn transition(&self) -> Option<u64> {
        (self.mode != Mode::Dense).then_some(self.search)
    }

    /// Where `step` is, in 1..=total.
    pub fn at(&self, step: u64) -> Position {
        debug_assert!((1..=self.total()).contains(&step));
        if self.mode == Mode::Dense {
            return Position {
                stage: Stage::Dense,
                index: step - 1,
                len: self.total(),
            };
        }
        if step <= self.search {
            return Position {
                stage: Stage::Search,
                index: step - 1,
                len: self.search,
            };
        }
        Position {
            stage: Stage::Tune,
            index: step - 1 - self.search,
            len: self.tune,
        }
    }

    /// Whether a training checkpoint follows `step`: every `every` steps and at the end of the
    /// search. The last step is followed by the model instead.
    pub fn checkpoints(&self, step: u64, every: u64) -> bool {
        step < self.total() && (step.is_multiple_of(every) || self.transition() == Some(step))
    }

    /// Whether accuracy on the calibration split is measured after `step`: ten times in a job.
    pub fn evaluates(&self, step: u64) -> bool {
        let every = self.total().div_ceil(10).max(1);
        step == self.total() || step.is_multiple_of(every)
    }

    /// Temperature of the gates' Gumbel-softmax, falling over all steps that have gates.
    pub fn gate_tau(&self, step: u64, compress: &Compress) -> f64 {
        let before = if self.mode.gates_in_search() {
            0
        } else {
            self.search
        };
        let done = (step - 1).saturating_sub(before) as f64 / (self.total() - before) as f64;
        fall(compress.gate.tau_start, compress.gate.tau_end, done)
    }
}

/// Temperature of alpha's Gumbel-softmax, falling over the search stage.
pub(super) fn alpha_tau(position: &Position, compress: &Compress) -> f64 {
    let part = &compress.static_part;
    fall(part.tau_start, part.tau_end, position.progress())
}

fn fall(start: f64, end: f64, done: f64) -> f64 {
    start + (end - start) * done
}

/// F_t of `step`: the job's target, or where the gates see the budget, one of their range. Of the step alone, so
/// that all micro-batches have one and L_res stays on the means of the global batch. [ours]
pub(super) fn target(seed: u64, step: u64, compress: &Compress) -> f64 {
    match compress.gate.budgets {
        Some(Budgets {
            lo,
            hi,
            adapt: Adapt::Gates,
        }) => rng(seed, Stream::Budget, step, 0).random_range(lo..=hi),
        _ => compress.target,
    }
}

/// What the resource loss asks for at a step of [`target`] F_t: nothing (gamma 0) in the warm-up and in dense
/// mode, then a ramp down from 1, then F_t and the job's static target.
///
/// Sequential mode prunes to static_target first; its gates then ramp from there to the target. A static
/// target has a term of its own only while there are gates and the structure can still change. [ours]
pub(super) fn budget(position: &Position, compress: &Compress, target: f64) -> Budget {
    let sequential = (compress.mode == Mode::Sequential)
        .then_some(compress.static_target)
        .flatten();
    let (share, from, target) = match (position.stage, sequential) {
        (Stage::Dense, _) => (None, 1.0, target),
        (Stage::Search, _) => (
            ramped_share(position.progress(), compress),
            1.0,
            sequential.unwrap_or(target),
        ),
        (Stage::Tune, Some(pruned)) => {
            let share = ramp(position.progress(), compress.search.ramp);
            (Some(share), pruned, target)
        }
        (Stage::Tune, None) => (Some(1.0), 1.0, target),
    };
    let ramped = |from: f64, to: f64| from - (from - to) * share.unwrap_or(0.0);
    let both = position.stage == Stage::Search && compress.mode == Mode::Unified;
    Budget {
        target: ramped(from, target),
        static_target: compress
            .static_target
            .filter(|_| both)
            .map(|target| ramped(1.0, target)),
        gamma: share.map_or(0.0, |_| compress.gamma),
        form: compress.resource,
    }
}

/// How far the target has come from 1 to its value; none in the warm-up.
fn ramped_share(progress: f64, compress: &Compress) -> Option<f64> {
    let after = progress - compress.search.warmup;
    (after >= 0.0).then(|| ramp(after, compress.search.ramp))
}

/// Share of a ramp of length `length` that is done after `after`.
fn ramp(after: f64, length: f64) -> f64 {
    if length > 0.0 {
        (after / length).min(1.0)
    } else {
        1.0
    }
}

/// Whether the gates are held open at a step: in the warm-up of the search.
pub(super) fn gates_open(position: &Position, compress: &Compress) -> bool {
    position.stage == Stage::Search && position.progress() < compress.search.warmup
}

/// Share of the peak learning rate at a step: linear warm-up, then cosine to `final_ratio`.
pub(super) fn lr_factor(position: &Position, schedule: &Schedule) -> f64 {
    let warmup = (schedule.warmup * position.len as f64).round();
    let index = position.index as f64;
    if index < warmup {
        return (index + 1.0) / warmup;
    }
    let done = (index - warmup) / (position.len as f64 - warmup).max(1.0);
    let cosine = 0.5 * (1.0 + (std::f64::consts::PI * done).cos());
    schedule.final_ratio + (1.0 - schedule.final_ratio) * cosine
}

/// The micro-batches that `rank` of `world` runs out of 0..`count`: contiguous, uneven where
/// `count` does not divide, possibly none.
pub(super) fn micro_batches(rank: u32, world: u32, count: u32) -> Range<u32> {
    let cut = |rank: u32| (u64::from(rank) * u64::from(count) / u64::from(world)) as u32;
    cut(rank)..cut(rank + 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn plan(mode: Mode, search: u64, tune: u64) -> Plan {
        Plan { mode, search, tune }
    }

    #[test]
    fn stages_follow_one_another() {
        let unified = plan(Mode::Unified, 3, 2);
        let stages: Vec<_> = (1..=5)
            .map(|step| (unified.at(step).stage, unified.at(step).index))
            .collect();
        assert_eq!(
            stages,
            [
                (Stage::Search, 0),
                (Stage::Search, 1),
                (Stage::Search, 2),
                (Stage::Tune, 0),
                (Stage::Tune, 1)
            ]
        );
        let dense = plan(Mode::Dense, 3, 2);
        assert_eq!(
            dense.at(4),
            Position {
                stage: Stage::Dense,
                index: 3,
                len: 5
            }
        );
        assert_eq!(dense.transition(), None);
    }

    #[test]
    fn the_last_step_is_followed_by_the_model_alone() {
        let unified = plan(Mode::Unified, 3, 3);
        let after: Vec<u64> = (1..=6).filter(|&s| unified.checkpoints(s, 2)).collect();
        assert_eq!(after, [2, 3, 4]);
    }

    #[test]
    fn the_budget_waits_then_ramps_then_holds() {
        let mut compress = Compress {
            target: 0.5,
            static_target: Some(0.8),
            ..Compress::default()
        };
        compress.search.warmup = 0.2;
        compress.search.ramp = 0.4;
        let unified = plan(Mode::Unified, 10, 10);
        let at = |step| budget(&unified.at(step), &compress, 0.5);
        for step in [1, 2] {
            assert_eq!(at(step).gamma, 0.0);
            assert!(gates_open(&unified.at(step), &compress));
        }
        assert!(!gates_open(&unified.at(3), &compress));
        for (step, target) in [(3, 1.0), (5, 0.75), (7, 0.5), (10, 0.5), (11, 0.5)] {
            assert_eq!(at(step).gamma, compress.gamma);
            assert!((at(step).target - target).abs() < 1e-12, "{step}");
        }
        assert!((at(5).static_target.unwrap() - 0.9).abs() < 1e-12);
        assert_eq!(at(11).static_target, None);
        let dense = plan(Mode::Dense, 10, 10);
        assert_eq!(budget(&dense.at(20), &compress, 0.5).gamma, 0.0);
    }

    #[test]
    fn sequential_mode_prunes_then_gates() {
        let mut compress = Compress {
            mode: Mode::Sequential,
            target: 0.5,
            static_target: Some(0.8),
            ..Compress::default()
        };
        compress.search.warmup = 0.0;
        compress.search.ramp = 0.5;
        compress.gate.tau_start = 1.0;
        compress.gate.tau_end = 0.0;
        let sequential = plan(Mode::Sequential, 10, 10);
        for (step, target) in [
            (1, 1.0),
            (6, 0.8),
            (10, 0.8),
            (11, 0.8),
            (16, 0.5),
            (20, 0.5),
        ] {
            let asked = budget(&sequential.at(step), &compress, 0.5);
            assert!((asked.target - target).abs() < 1e-12, "{step}: {asked:?}");
            assert_eq!(asked.static_target, None);
        }
        assert_eq!(sequential.gate_tau(3, &compress), 1.0);
        assert_eq!(sequential.gate_tau(11, &compress), 1.0);
        assert_eq!(sequential.gate_tau(16, &compress), 0.5);
    }

    #[test]
    fn the_learning_rate_rises_then_falls() {
        let schedule = Schedule {
            warmup: 0.2,
            final_ratio: 0.1,
        };
        let unified = plan(Mode::Unified, 10, 10);
        let rates: Vec<f64> = (1..=10)
            .map(|step| lr_factor(&unified.at(step), &schedule))
            .collect();
        assert_eq!(rates[..3], [0.5, 1.0, 1.0]);
        assert!(rates[2..].windows(2).all(|pair| pair[0] > pair[1]));
        assert!(rates[9] > 0.1 && rates[9] < 0.2);
    }

    #[test]
    fn targets_are_drawn_where_gates_see_them() {
        let mut compress = Compress {
            target: 0.5,
            ..Compress::default()
        };
        let drawn = |compress: &Compress, seed| -> Vec<f64> {
            (1..=400).map(|step| target(seed, step, compress)).collect()
        };
        assert_eq!(drawn(&compress, 1), [0.5; 400]);
        let mut budgets = Budgets {
            lo: 0.4,
            hi: 0.8,
            adapt: Adapt::Threshold,
        };
        compress.gate.budgets = Some(budgets);
        assert_eq!(drawn(&compress, 1), [0.5; 400]);
        budgets.adapt = Adapt::Gates;
        compress.gate.budgets = Some(budgets);
        let first = drawn(&compress, 1);
        assert_eq!(first, drawn(&compress, 1));
        assert_ne!(first, drawn(&compress, 2));
        assert!(first.iter().all(|&target| budgets.contains(target)));
        // Every tenth of the range has its share.
        for tenth in 0..10 {
            let from = 0.4 + 0.04 * f64::from(tenth);
            let inside = |&&target: &&f64| target >= from && target < from + 0.04;
            let count = first.iter().filter(inside).count();
            assert!((15..=70).contains(&count), "{count} from {from}");
        }
    }

    proptest! {
        #[test]
        fn every_micro_batch_is_run_once(world in 1_u32..20, count in 0_u32..50) {
            let run: Vec<u32> = (0..world)
                .flat_map(|rank| micro_batches(rank, world, count))
                .collect();
            prop_assert_eq!(run, (0..count).collect::<Vec<_>>());
            for rank in 0..world {
                let own = micro_batches(rank, world, count).len() as u32;
                prop_assert!(own >= count / world && own <= count.div_ceil(world));
            }
        }
    }
}
