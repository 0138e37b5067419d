//! From the search to the tune stage: arg max of alpha, and the tensors are cut to it. [paper]

use std::ops::RangeInclusive;

use super::pattern::{self, margin};
use espalier_job::{Compress, DecideBy, Mode};
use espalier_vit::{Choice, Cost, Search, SliceError, Vit, slice};

/// How far off its target the static structure may land: nothing can correct it later.
const STATIC_TOLERANCE: f64 = 0.01;

/// The sliced model, and why it has the structure it has.
#[derive(Debug)]
pub(super) struct Transition {
    /// The model that is tuned.
    pub model: Vit,
    /// The choice.
    pub choice: Choice,
}

/// Chooses within the job's budget and slices. The model keeps its gates.
///
/// # Errors
/// A model and a search that do not belong together.
pub(super) fn transition(
    model: &Vit,
    search: &Search,
    cost: &Cost,
    compress: &Compress,
) -> Result<Transition, SliceError> {
    let choice = choose(model, search, cost, compress);
    let model = slice(model, search.ranking(), &choice.structure)?;
    Ok(Transition { model, choice })
}

/// The likeliest structure within the budget. Constant gates spend whole modules and cannot make up for what
/// a structure costs, so for them it is the likeliest of which some modules come as near to the target as any do. [ours]
fn choose(model: &Vit, search: &Search, cost: &Cost, compress: &Compress) -> Choice {
    let budget = static_budget(compress);
    let constant = compress.mode.gates() && compress.gate.decide == DecideBy::Constant;
    let with_gates = constant.then(|| {
        let modules = 0..2 * model.config().structure.blocks.len();
        let keep = compress.gate.keep_init;
        let first = (keep / (1.0 - keep)).ln();
        let margins: Vec<f64> = modules
            .map(|m| {
                model
                    .gate_logits(m)
                    .map_or(first, |logits_2| margin(&logits_2))
            })
            .collect();
        let probabilities = search.probabilities();
        pattern::around(compress.target)
            .iter()
            .find_map(|total| probabilities.within_both(&margins, cost, &budget, total))
    });
    with_gates
        .flatten()
        .unwrap_or_else(|| search.choose_within(cost, budget))
}

/// Where F / F_full may be with every gate open. Gates can only skip, so a gated model must have at
/// least its (greatest) target before they do, and never more than its static target or the dense model.
pub(super) fn static_budget(compress: &Compress) -> RangeInclusive<f64> {
    let target = compress.greatest_target();
    match (compress.mode, compress.static_target) {
        (Mode::Static, _) => target * (1.0 - STATIC_TOLERANCE)..=target * (1.0 + STATIC_TOLERANCE),
        // Where the two targets are one, a little less, so that there is a choice.
        (_, Some(most)) => {
            let enough = target * (1.0 - STATIC_TOLERANCE / 2.0);
            enough.max(most * (1.0 - STATIC_TOLERANCE))..=most
        }
        (_, None) => target..=1.0,
    }
}

#[cfg(test)]
mod tests {
    use espalier_job::{Adapt, Budgets};

    use super::*;

    #[test]
    fn the_budget_follows_the_mode() {
        let mut compress = Compress {
            target: 0.5,
            ..Compress::default()
        };
        assert_eq!(static_budget(&compress), 0.5..=1.0);
        compress.static_target = Some(0.75);
        assert_eq!(static_budget(&compress), 0.75 * 0.99..=0.75);
        compress.static_target = Some(0.5);
        assert_eq!(static_budget(&compress), 0.4975..=0.5);
        compress.gate.budgets = Some(Budgets {
            lo: 0.4,
            hi: 0.7,
            adapt: Adapt::Gates,
        });
        compress.static_target = None;
        assert_eq!(static_budget(&compress), 0.7..=1.0);
        compress.gate.budgets = None;
        compress.mode = Mode::Static;
        assert_eq!(static_budget(&compress), 0.495..=0.505);
    }
}
