use espalier_job::{Budgets, DecideBy};
use serde::{Deserialize, Serialize};

use crate::{Config, ConfigError, GateConfig};

/// F_t as gates see it that were trained for a range of budgets. [ours]
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GateBudget {
    /// The least budget that was trained for.
    pub lo: f64,
    /// The greatest budget that was trained for.
    pub hi: f64,
    /// The budget that the gates see, in `lo..=hi`.
    pub target: f64,
}

/// What the gates decide around at one budget.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AtBudget {
    /// F_t: MACs over those of the dense model.
    pub budget: f64,
    /// As [`GateConfig::threshold`].
    pub threshold: f64,
    /// As [`GateConfig::threshold_shared`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold_shared: Option<f64>,
}

impl GateBudget {
    /// What gates of a job see at `target`.
    pub fn new(budgets: &Budgets, target: f64) -> Self {
        Self {
            lo: budgets.lo,
            hi: budgets.hi,
            target,
        }
    }

    /// phi, the number that a gate is given: -1 at the least budget, 1 at the greatest.
    pub fn phi(&self) -> f64 {
        (2.0 * self.target - self.lo - self.hi) / (self.hi - self.lo)
    }
}

impl Config {
    /// The same model run at `budget`: the gates see it, and the thresholds lie on straight lines between those
    /// that were calibrated beside it.
    ///
    /// # Errors
    /// A model without budgets, or a budget outside of them: what there is to choose from.
    pub fn at_budget(&self, budget: f64) -> Result<Self, ConfigError> {
        let (Some(gate), [first, .., last]) = (self.gate, self.budgets.as_slice()) else {
            return Err(ConfigError {
                field: "budgets".to_owned(),
                reason: format!(
                    "the model has one budget, so it cannot be run at {budget}: train it with compress.gate.budgets"
                ),
            });
        };
        let Some(found) = interpolated(&self.budgets, budget) else {
            let (lo, hi) = (first.budget, last.budget);
            return Err(ConfigError {
                field: "budgets".to_owned(),
                reason: format!("{budget} is not one of the model's budgets, {lo} to {hi}"),
            });
        };
        let gate = GateConfig {
            threshold: found.threshold,
            threshold_shared: found.threshold_shared,
            budget: gate.budget.map(|seen| GateBudget {
                target: budget,
                ..seen
            }),
            ..gate
        };
        Ok(Self {
            gate: Some(gate),
            ..self.clone()
        })
    }

    pub(crate) fn check_budgets(&self) -> Result<(), ConfigError> {
        let fail = |field: String, reason: &str| {
            Err(ConfigError {
                field,
                reason: reason.to_owned(),
            })
        };
        if let Some((gate, seen)) = self.gate.and_then(|gate| Some((gate, gate.budget?))) {
            // Not a number is neither.
            let ordered = 0.0 < seen.lo && seen.lo < seen.hi && seen.hi <= 1.0;
            let inside = |budget: f64| (seen.lo..=seen.hi).contains(&budget);
            if !ordered || !inside(seen.target) {
                let reason = "is not a range within 0 and 1 with a target inside";
                return fail("gate.budget".to_owned(), reason);
            }
            if gate.decide != DecideBy::Input {
                let reason = "is seen by gates that decide by their input alone";
                return fail("gate.budget".to_owned(), reason);
            }
            if !self.budgets.iter().all(|entry| inside(entry.budget)) {
                let reason = "holds one that is outside of gate.budget";
                return fail("budgets".to_owned(), reason);
            }
        }
        if !self.budgets.is_empty() && (self.gate.is_none() || self.budgets.len() < 2) {
            return fail("budgets".to_owned(), "needs gates and two entries at least");
        }
        for (i, entry) in self.budgets.iter().enumerate() {
            let numbers = [Some(entry.threshold), entry.threshold_shared];
            let within = entry.budget > 0.0 && entry.budget <= 1.0;
            if !within || !numbers.into_iter().flatten().all(f64::is_finite) {
                let reason = "is not a budget within 0 and 1 with finite thresholds";
                return fail(format!("budgets[{i}]"), reason);
            }
            if i > 0 && self.budgets[i - 1].budget >= entry.budget {
                return fail(
                    format!("budgets[{i}].budget"),
                    "is not above the one before",
                );
            }
        }
        Ok(())
    }
}

/// The thresholds at `budget`, on the line between its neighbours in `table`, which is sorted; None outside of
/// it. A shared threshold is there as soon as one of the neighbours has one.
fn interpolated(table: &[AtBudget], budget: f64) -> Option<AtBudget> {
    if let Some(found) = table.iter().find(|entry| entry.budget == budget) {
        return Some(*found);
    }
    let pair = table
        .windows(2)
        .find(|pair| (pair[0].budget..=pair[1].budget).contains(&budget))?;
    let [below, above] = [pair[0], pair[1]];
    let share = (budget - below.budget) / (above.budget - below.budget);
    let between = |from: f64, to: f64| from + (to - from) * share;
    let either = below.threshold_shared.or(above.threshold_shared);
    let shared = |entry: AtBudget| entry.threshold_shared.unwrap_or(entry.threshold);
    Some(AtBudget {
        budget,
        threshold: between(below.threshold, above.threshold),
        threshold_shared: either.map(|_| between(shared(below), shared(above))),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(budget: f64, threshold: f64, threshold_shared: Option<f64>) -> AtBudget {
        AtBudget {
            budget,
            threshold,
            threshold_shared,
        }
    }

    #[test]
    fn thresholds_lie_between_those_of_the_neighbours() {
        let table = [
            entry(0.4, 3.0, None),
            entry(0.6, 1.0, Some(2.0)),
            entry(0.8, -1.0, None),
        ];
        assert_eq!(interpolated(&table, 0.6), Some(table[1]));
        assert_eq!(interpolated(&table, 0.4), Some(table[0]));
        assert_eq!(interpolated(&table, 0.8), Some(table[2]));
        let middle = interpolated(&table, 0.5).unwrap();
        assert!((middle.threshold - 2.0).abs() < 1e-12, "{middle:?}");
        let shared = middle.threshold_shared.unwrap();
        assert!((shared - 2.5).abs() < 1e-12, "{middle:?}");
        for outside in [0.39, 0.81, f64::NAN] {
            assert_eq!(interpolated(&table, outside), None);
        }
    }

    proptest! {
        /// A greater budget never has a greater threshold, where that holds in the table.
        #[test]
        fn falling_thresholds_fall_in_between(
            steps in prop::collection::vec((0.01_f64..0.2, 0.0_f64..5.0), 2..6),
            first in 0.0_f64..1.0,
            second in 0.0_f64..1.0,
        ) {
            let (mut budget, mut threshold) = (0.0, 10.0);
            let table: Vec<AtBudget> = steps
                .iter()
                .map(|(up, down)| {
                    budget += up;
                    threshold -= down;
                    entry(budget, threshold, None)
                })
                .collect();
            let span = budget - table[0].budget;
            let at = |share: f64| {
                let budget = (table[0].budget + share * span).min(budget);
                interpolated(&table, budget).unwrap().threshold
            };
            let (low, high) = (first.min(second), first.max(second));
            prop_assert!(at(low) >= at(high) - 1e-9);
            prop_assert!(at(low) <= table[0].threshold && at(high) >= threshold - 1e-9);
        }
    }

    #[test]
    fn phi_is_one_at_either_end() {
        let phi = |target| {
            GateBudget {
                lo: 0.4,
                hi: 0.8,
                target,
            }
            .phi()
        };
        for (target, expected) in [(0.4, -1.0), (0.6, 0.0), (0.8, 1.0)] {
            assert!((phi(target) - expected).abs() < 1e-12, "{target}");
        }
    }
}
