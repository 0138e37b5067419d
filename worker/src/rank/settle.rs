//! After training: what the gates decide at inference is settled so that hard MACs meet the target.

use espalier_job::{Budgets, DecideBy};
use espalier_vit::{AtBudget, BlockStructure, Cost, GateConfig, Structure, Vit};
use tch::{Tensor, no_grad};

use super::{
    budgets,
    calibrate::{Calibration, Look, calibrate},
    error::TrainError,
    measure::{Measured, Mode, measure},
    pattern,
    prepare::Prepared,
};

/// Samples of the calibration split that decisions are settled on, at most. Where one sample takes all and the
/// next one none, 10,000 tell the mean to half a percent.
const CALIBRATED: usize = 10_000;
/// A gate whose margins over all samples differ by no more than this, relative to their size, is a constant:
/// the rest is how a device rounds.
const SAME: f32 = 1e-5;
/// Images that decide together when shared mode is settled: in the middle of the batches that are reported.
const TOGETHER: usize = 32;
/// Logits by which a gate that sees no input is moved out of the threshold's way.
const ASIDE: f64 = 64.0;

/// Settles the gates of `model` on held-out training samples, at the job's target and then at its other budgets.
///
/// Gates that see their input get the threshold at which the target is met. Where that fails because some
/// are constant all the same (as on a CLS token that no attention has shown the image yet), these get the likeliest
/// pattern that leaves the target within the others' reach. Gates that are constants have the pattern alone.
///
/// # Errors
/// An image that cannot be read.
pub(super) fn settle(
    prepared: &Prepared,
    model: &mut Vit,
    cost: &Cost,
) -> Result<Calibration, TrainError> {
    let target = prepared.job.compress.target;
    let alone = settle_alone(prepared, model, cost, target)?;
    if model.config().gate.map(|gate| gate.decide) == Some(DecideBy::Input) {
        settle_together(prepared, model, cost, target)?;
    }
    if let Some(asked) = prepared.job.compress.gate.budgets {
        settle_budgets(prepared, model, cost, &asked)?;
    }
    Ok(alone)
}

/// Per-sample mode.
fn settle_alone(
    prepared: &Prepared,
    model: &mut Vit,
    cost: &Cost,
    target: f64,
) -> Result<Calibration, TrainError> {
    let decide = model.config().gate.map(|gate| gate.decide);
    if decide == Some(DecideBy::Constant) {
        return Ok(settle_constants(model, cost, target));
    }
    let found = threshold(prepared, model, cost, target)?;
    if found.meets(target) {
        return Ok(found);
    }
    let fixed = constants(model, &look(prepared, model, Mode::PerSample)?);
    let Some(before) = set_aside(model, &fixed, cost, target, found.threshold) else {
        return Ok(found);
    };
    let beside = threshold(prepared, model, cost, target)?;
    if (beside.ratio - target).abs() < (found.ratio - target).abs() {
        return Ok(beside);
    }
    for (mut logits_2, before) in before {
        no_grad(|| logits_2.copy_(&before));
    }
    model.set_threshold(found.threshold);
    Ok(found)
}

/// Shared mode: a threshold of its own, found on batches of [`TOGETHER`], if that brings MACs nearer to the target.
///
/// The means of batches lie closer together than the margins of samples, so where few samples are far from the
/// others, as in gates that hardly look, the two modes meet the target at different thresholds.
fn settle_together(
    prepared: &Prepared,
    model: &mut Vit,
    cost: &Cost,
    target: f64,
) -> Result<(), TrainError> {
    let alone = model.config().gate.map_or(0.0, |gate| gate.threshold);
    let mut first = None;
    let found = calibrate(alone, target, |threshold| {
        model.set_thresholds(alone, Some(threshold));
        let measured = look(prepared, model, Mode::Shared(TOGETHER))?;
        let seen = as_look(model, cost, &measured);
        first.get_or_insert(seen.ratio);
        Ok::<_, TrainError>(seen)
    })?;
    let same = first.is_none_or(|first| (first - target).abs() <= (found.ratio - target).abs());
    model.set_thresholds(alone, (!same).then_some(found.threshold));
    Ok(())
}

/// The other budgets: thresholds alone, of gates that are what the job's target made of them, for each of
/// [`budgets::calibrated`]. The model is left at the job's target.
fn settle_budgets(
    prepared: &Prepared,
    model: &mut Vit,
    cost: &Cost,
    asked: &Budgets,
) -> Result<(), TrainError> {
    let target = prepared.job.compress.target;
    let settled = model.config().gate;
    let entry = |gate: &GateConfig, budget| AtBudget {
        budget,
        threshold: gate.threshold,
        threshold_shared: gate.threshold_shared,
    };
    let mut table = Vec::new();
    for budget in budgets::calibrated(asked, target) {
        if budget == target {
            table.extend(settled.map(|gate| entry(&gate, budget)));
            continue;
        }
        model.see_budget(budget);
        threshold(prepared, model, cost, budget)?;
        settle_together(prepared, model, cost, budget)?;
        table.extend(model.config().gate.map(|gate| entry(&gate, budget)));
    }
    model.set_budgets(table);
    model
        .run_at(target)
        .map_err(|error| TrainError::Machine(error.to_string()))
}

/// Opens and closes constant gates by the likeliest pattern that meets the target.
fn settle_constants(model: &Vit, cost: &Cost, target: f64) -> Calibration {
    let structure = &model.config().structure;
    let logits: Vec<Option<Tensor>> = (0..2 * structure.blocks.len())
        .map(|module| model.gate_logits(module))
        .collect();
    let margins: Vec<f64> = logits
        .iter()
        .map(|logits_2| logits_2.as_ref().map_or(0.0, pattern::margin))
        .collect();
    let open = match pattern::likeliest(structure, &margins, cost, &pattern::around(target)) {
        Some(pattern) => pattern.open,
        None => margins.iter().map(|&margin| margin > 0.0).collect(),
    };
    for ((logits_2, &open), margin) in logits.iter().zip(&open).zip(margins) {
        if let Some(logits_2) = logits_2
            && open != (margin > 0.0)
        {
            let keep = if open { 1.0 } else { -1.0 };
            let mut logits_2 = logits_2.shallow_clone();
            no_grad(|| logits_2.copy_(&Tensor::from_slice(&[-keep, keep])));
        }
    }
    let ratio = cost.effective(structure, |module| f64::from(u8::from(open[module])));
    Calibration {
        threshold: 0.0,
        ratio: ratio / cost.dense(),
    }
}

/// Moves the gates `fixed`, of which each has one margin for all samples, out of the threshold's way, so that
/// `target` is within reach of the others. Gives their logits and what these were; None when nothing was moved.
fn set_aside(
    model: &Vit,
    fixed: &[(usize, f32)],
    cost: &Cost,
    target: f64,
    threshold: f64,
) -> Option<Vec<(Tensor, Tensor)>> {
    let structure = &model.config().structure;
    let mut margins = vec![0.0; 2 * structure.blocks.len()];
    let mut constant = Structure {
        blocks: vec![
            BlockStructure {
                heads: 0,
                neurons: 0
            };
            structure.blocks.len()
        ],
    };
    for &(module, margin) in fixed {
        margins[module] = f64::from(margin) - threshold;
        // An attention that is kept shows the tokens more of the image, without which later gates are
        // constant too and nothing is left for the threshold to move.
        if module.is_multiple_of(2) {
            margins[module] += ASIDE;
        }
        let (from, to) = (
            &structure.blocks[module / 2],
            &mut constant.blocks[module / 2],
        );
        if module.is_multiple_of(2) {
            to.heads = from.heads;
        } else {
            to.neurons = from.neurons;
        }
    }
    // What the other gates can add.
    let others = (cost.static_macs(structure) - cost.static_macs(&constant)) / cost.dense();
    let mut budgets = vec![
        target - 0.9 * others..=target - 0.1 * others,
        target - others..=target,
    ];
    budgets.extend(pattern::around(target));
    let pattern = pattern::likeliest(&constant, &margins, cost, &budgets)?;
    let moved: Vec<(Tensor, Tensor)> = fixed
        .iter()
        .filter_map(|&(module, _)| {
            let mut logits_2 = model.gate_logits(module)?;
            let before = logits_2.detach().copy();
            let by = if pattern.open[module] { ASIDE } else { -ASIDE };
            no_grad(|| logits_2.copy_(&(&before + Tensor::from_slice(&[0.0, by]))));
            Some((logits_2, before))
        })
        .collect();
    (!moved.is_empty()).then_some(moved)
}

/// The calibrated threshold of the gates as they are.
fn threshold(
    prepared: &Prepared,
    model: &mut Vit,
    cost: &Cost,
    target: f64,
) -> Result<Calibration, TrainError> {
    let start = model.config().gate.map_or(0.0, |gate| gate.threshold);
    let found = calibrate(start, target, |threshold| {
        model.set_threshold(threshold);
        let measured = look(prepared, model, Mode::PerSample)?;
        Ok::<_, TrainError>(as_look(model, cost, &measured))
    })?;
    model.set_threshold(found.threshold);
    Ok(found)
}

fn look(prepared: &Prepared, model: &Vit, mode: Mode<'_>) -> Result<Measured, TrainError> {
    let calibration = &prepared.splits.calibration;
    let mut measured =
        measure(model, calibration, CALIBRATED, &[mode]).map_err(TrainError::Data)?;
    measured
        .pop()
        .ok_or_else(|| TrainError::Machine("one mode gave no result".to_owned()))
}

fn as_look(model: &Vit, cost: &Cost, measured: &Measured) -> Look {
    let structure = &model.config().structure;
    let rates = measured.rates();
    let mut margins = Vec::new();
    for (module, row) in gates(model, measured) {
        let block = structure.blocks[module / 2];
        let size = [block.heads, block.neurons][module % 2];
        let macs = cost.module(module, size, 1.0) - cost.module(module, size, 0.0);
        let gain = macs / cost.dense() / measured.samples as f64;
        let constant = constant(&row);
        margins.extend(row.iter().map(|&margin| (constant.unwrap_or(margin), gain)));
    }
    Look {
        ratio: cost.effective(structure, |module| rates[module]) / cost.dense(),
        margins,
    }
}

/// The margins of each gate over the samples, with its module.
fn gates(model: &Vit, measured: &Measured) -> Vec<(usize, Vec<f32>)> {
    let modules = 2 * model.config().structure.blocks.len();
    let row = |module: usize| {
        let column_B = measured.margins_BM.select(1, module as i64);
        let values = Vec::<f32>::try_from(&column_B)
            .unwrap_or_else(|error| unreachable!("margins are a matrix of f32: {error}"));
        (module, values)
    };
    // Infinite where there is no gate.
    let asked = |(_, row): &(usize, Vec<f32>)| row.iter().all(|margin| margin.is_finite());
    (0..modules).map(row).filter(asked).collect()
}

/// The modules whose gates are constants, and their margins.
fn constants(model: &Vit, measured: &Measured) -> Vec<(usize, f32)> {
    let rows = gates(model, measured).into_iter();
    rows.filter_map(|(module, row)| Some((module, constant(&row)?)))
        .collect()
}

/// The one margin of all samples, if there is one.
fn constant(row: &[f32]) -> Option<f32> {
    let least = row.iter().copied().fold(f32::INFINITY, f32::min);
    let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    (most - least <= SAME * (1.0 + most.abs())).then_some(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_does_not_make_a_gate_look() {
        assert_eq!(constant(&[3.0, 3.000_01, 3.0]), Some(3.000_01));
        assert_eq!(constant(&[3.0, 3.001]), None);
        assert_eq!(constant(&[-0.1, -0.1]), Some(-0.1));
    }
}
