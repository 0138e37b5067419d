//! Which modules run where gates see no input: one pattern for every sample, chosen to meet the budget. [ours]
//!
//! Constant gates spend MACs in steps of whole modules, so no threshold meets a budget. But there are 2^M
//! patterns, and which is the likeliest of those that meet it is the search's question again: each module has
//! two sizes, all of it or none, scored by its gate.

use std::ops::RangeInclusive;

use espalier_vit::{BlockStructure, Candidate, Cost, Probabilities, Structure};
use tch::Tensor;

/// A pattern and what it costs.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Pattern {
    /// Whether each of the M modules runs.
    pub open: Vec<bool>,
    /// F / F_full.
    pub ratio: f64,
}

/// How far off the target a pattern may be, as shares of it: the first that some pattern keeps holds.
const NEAR: [f64; 7] = [0.005, 0.01, 0.02, 0.05, 0.1, 0.3, 1.0];

/// keep - skip of a gate's logits.
pub(super) fn margin(logits_2: &Tensor) -> f64 {
    logits_2.double_value(&[1]) - logits_2.double_value(&[0])
}

/// Budgets around `target`, the narrowest first.
pub(super) fn around(target: f64) -> Vec<RangeInclusive<f64>> {
    NEAR.map(|share| target * (1.0 - share)..=target * (1.0 + share))
        .to_vec()
}

/// The likeliest pattern of `structure` in which an MHSA runs, by the `margins` (keep - skip) of the M
/// modules' gates, within the first of `budgets` that has one.
pub(super) fn likeliest(
    structure: &Structure,
    margins: &[f64],
    cost: &Cost,
    budgets: &[RangeInclusive<f64>],
) -> Option<Pattern> {
    let choices = probabilities(structure, margins).within_each(cost, budgets);
    let choice = choices.into_iter().find(|choice| choice.within_budget)?;
    Some(Pattern {
        open: sizes(&choice.structure).map(|size| size > 0).collect(),
        ratio: choice.static_ratio,
    })
}

/// All or nothing of each module, as its gate has it.
fn probabilities(structure: &Structure, margins: &[f64]) -> Probabilities {
    let module = |(size, &margin): (i64, &f64)| {
        let skip = Candidate {
            size: 0,
            score: log_sigmoid(-margin),
        };
        let run = Candidate {
            size,
            score: log_sigmoid(margin),
        };
        if size > 0 {
            vec![skip, run]
        } else {
            vec![skip]
        }
    };
    Probabilities {
        modules: sizes(structure).zip(margins).map(module).collect(),
    }
}

/// Heads or neurons of each module.
fn sizes(structure: &Structure) -> impl Iterator<Item = i64> + '_ {
    let blocks = structure.blocks.iter();
    blocks.flat_map(|&BlockStructure { heads, neurons }| [heads, neurons])
}

fn log_sigmoid(z: f64) -> f64 {
    z.min(0.0) - (-z.abs()).exp().ln_1p()
}

#[cfg(test)]
mod tests {
    use espalier_job::{Architecture, Average, DecideBy, GateInput};
    use espalier_vit::{Dims, GateConfig};
    use proptest::prelude::*;

    use super::*;

    fn dims() -> Dims {
        Dims {
            image_size: 28,
            patch_size: 7,
            channels: 1,
            classes: 10,
            width: 64,
            depth: 4,
            heads: 4,
            ffn: 128,
            architecture: Architecture::default(),
        }
    }

    fn cost() -> Cost {
        let gate = GateConfig {
            decide: DecideBy::Constant,
            input: GateInput::Cls,
            average: Average::Logits,
            hidden: 8,
            keep_init: 0.9,
            threshold: 0.0,
            threshold_shared: None,
            budget: None,
        };
        Cost::new(&dims(), Some(&gate))
    }

    #[test]
    fn what_the_gates_say_stays_where_it_meets_the_target() {
        let structure = Structure::full(&dims());
        let margins = [3.0, -2.0, 0.5, 4.0, -1.0, 9.0, 1.0, -0.1];
        let open = margins.map(|margin| margin > 0.0);
        let ratio = cost().effective(&structure, |m| f64::from(u8::from(open[m]))) / cost().dense();
        let found = likeliest(&structure, &margins, &cost(), &around(ratio)).unwrap();
        assert_eq!(found.open, open);
        assert!((found.ratio - ratio).abs() < 1e-12);
    }

    proptest! {
        /// No pattern within the bound is likelier: all 2^M are tried.
        #[test]
        fn is_the_likeliest_that_is_near(
            sizes in prop::array::uniform4((0_i64..=4, 0_i64..=16)),
            margins in prop::array::uniform8(-4.0_f64..4.0),
            target in 0.05_f64..1.0,
        ) {
            let blocks = sizes.map(|(heads, octets)| BlockStructure { heads, neurons: 8 * octets });
            let structure = Structure { blocks: blocks.to_vec() };
            let all: Vec<(Vec<bool>, f64, f64)> = (0..256_u32)
                .map(|bits| {
                    let open: Vec<bool> = (0..8).map(|m| bits >> m & 1 == 1).collect();
                    let ratio = cost().effective(&structure, |m| f64::from(u8::from(open[m]))) / cost().dense();
                    let score = (0..8)
                        .map(|m| log_sigmoid(if open[m] { margins[m] } else { -margins[m] }))
                        .sum();
                    (open, ratio, score)
                })
                // One that shows the class token nothing is none, where there is another.
                .filter(|(open, _, _)| blocks.iter().all(|block| block.heads == 0) || (0..4).any(|l| open[2 * l]))
                .filter(|(open, _, _)| (0..8).all(|m| !open[m] || [blocks[m / 2].heads, blocks[m / 2].neurons][m % 2] > 0))
                .collect();
            let near = |ratio: f64, bound: f64| (ratio - target).abs() <= bound * target;
            let Some(found) = likeliest(&structure, &margins, &cost(), &around(target)) else {
                prop_assert!(all.iter().all(|(_, ratio, _)| !near(*ratio, 1.0)));
                return Ok(());
            };
            let bound = NEAR.into_iter().find(|&bound| all.iter().any(|(_, ratio, _)| near(*ratio, bound))).unwrap();
            let best = all.iter().filter(|(_, ratio, _)| near(*ratio, bound)).map(|(_, _, score)| *score).fold(f64::MIN, f64::max);
            let own = all.iter().find(|(open, _, _)| *open == found.open).unwrap();
            prop_assert!((own.1 - found.ratio).abs() < 1e-12);
            // Two structures in one cell of MACs may differ by a little more than the bound's edge.
            prop_assert!(near(own.1, bound * 1.02), "{found:?}");
            prop_assert!(own.2 >= best - 1e-9 || !near(own.1, bound), "{} {best}", own.2);
        }
    }
}
