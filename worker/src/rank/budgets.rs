//! One model at several budgets: which are calibrated, and what the model gives at each. [ours]

use espalier_job::Budgets;
use espalier_vit::{Cost, Vit};

use super::{
    card::BudgetCard,
    error::TrainError,
    gates::paths,
    measure::{Measured, Mode, measure},
    prepare::Prepared,
};

/// Budgets that are calibrated, both ends included, besides the job's target. Between two of them thresholds are
/// interpolated.
const CALIBRATED: u32 = 5;

/// Parts of 1 to which the budgets between the ends are rounded, so that they read well.
const ROUNDED: f64 = 1e4;

/// The inference batch of [`BudgetCard::shared_ratio`].
const TOGETHER: usize = 64;

/// The budgets that are calibrated, rising: evenly spaced over the range, and `target`.
pub(super) fn calibrated(range: &Budgets, target: f64) -> Vec<f64> {
    let Budgets { lo, hi, .. } = *range;
    let inner = (1..CALIBRATED - 1).map(|index| {
        let share = f64::from(index) / f64::from(CALIBRATED - 1);
        ((lo + share * (hi - lo)) * ROUNDED).round() / ROUNDED
    });
    let mut all: Vec<f64> = inner.filter(|&budget| budget > lo && budget < hi).collect();
    all.extend([lo, hi, target]);
    all.sort_by(f64::total_cmp);
    all.dedup();
    all
}

/// What `model` gives on the validation images at each budget that was calibrated; nothing where it has one
/// budget. The model is left at the job's target.
///
/// # Errors
/// An image that cannot be read.
pub(super) fn frontier(
    prepared: &Prepared,
    model: &mut Vit,
    cost: &Cost,
) -> Result<Vec<BudgetCard>, TrainError> {
    let table = model.config().budgets.clone();
    if table.is_empty() {
        return Ok(Vec::new());
    }
    let cards = table
        .iter()
        .map(|entry| at(prepared, model, cost, entry.budget))
        .collect();
    run_at(model, prepared.job.compress.target)?;
    cards
}

fn at(
    prepared: &Prepared,
    model: &mut Vit,
    cost: &Cost,
    budget: f64,
) -> Result<BudgetCard, TrainError> {
    run_at(model, budget)?;
    let validation = prepared.validation();
    let modes = [Mode::PerSample, Mode::Shared(TOGETHER)];
    let measured =
        measure(model, validation, validation.len(), &modes).map_err(TrainError::Data)?;
    let [alone, together] = measured.as_slice() else {
        unreachable!("two modes give two results");
    };
    let structure = &model.config().structure;
    let ratio = |measured: &Measured| {
        let rates = measured.rates();
        cost.effective(structure, |module| rates[module]) / cost.dense()
    };
    Ok(BudgetCard {
        budget,
        accuracy: alone.accuracy(),
        effective_ratio: ratio(alone),
        shared_accuracy: together.accuracy(),
        shared_ratio: ratio(together),
        distinct_paths: paths(&alone.decisions_BM).distinct,
    })
}

fn run_at(model: &mut Vit, budget: f64) -> Result<(), TrainError> {
    let moved = model.run_at(budget);
    moved.map_err(|error| TrainError::Machine(error.to_string()))
}

#[cfg(test)]
mod tests {
    use espalier_job::Adapt;
    use proptest::prelude::*;

    use super::*;

    fn of(lo: f64, hi: f64, target: f64) -> Vec<f64> {
        let adapt = Adapt::Gates;
        calibrated(&Budgets { lo, hi, adapt }, target)
    }

    #[test]
    fn the_range_is_cut_evenly() {
        assert_eq!(of(0.4, 0.8, 0.6), [0.4, 0.5, 0.6, 0.7, 0.8]);
        assert_eq!(of(0.4, 0.8, 0.55), [0.4, 0.5, 0.55, 0.6, 0.7, 0.8]);
        assert_eq!(of(0.5, 0.500_01, 0.5), [0.5, 0.500_01]);
    }

    proptest! {
        #[test]
        fn ends_and_target_are_there_and_nothing_is_outside(
            lo in 0.01_f64..0.9, width in 1e-9_f64..0.1, share in 0.0_f64..=1.0,
        ) {
            let hi = lo + width;
            let target = (lo + share * width).min(hi);
            let all = of(lo, hi, target);
            prop_assert_eq!((all[0], all[all.len() - 1]), (lo, hi));
            prop_assert!(all.contains(&target));
            prop_assert!(all.windows(2).all(|pair| pair[0] < pair[1]));
        }
    }
}
