//! What the decisions of the gates say about them. Pure but for the counting.

use std::collections::HashMap;

use espalier_job::{Compress, DecideBy};
use espalier_random::{SliceRandom as _, Stream, rng};
use espalier_vit::{Config, Vit};
use tch::{Kind, Tensor};

use super::card::{BlockRate, BudgetCard, ReportCard};

/// Whether any module has a gate.
pub(super) fn gated(model: &Vit) -> bool {
    (0..model.config().structure.blocks.len() * 2).any(|module| has_gate(model.config(), module))
}

/// Whether module m (MHSA of block 0, FFN of block 0, ..) is there and has a gate.
fn has_gate(config: &Config, module: usize) -> bool {
    let block = config.structure.blocks[module / 2];
    let size = [block.heads, block.neurons][module % 2];
    config.gate.is_some() && size > 0
}

/// Share of samples that run each module, where it has a gate.
pub(crate) fn block_rates(config: &Config, rates: &[f64]) -> Vec<BlockRate> {
    let rate = |module| has_gate(config, module).then(|| rates[module]);
    (0..config.structure.blocks.len())
        .map(|block| BlockRate {
            block: block as u64,
            attn: rate(2 * block),
            ffn: rate(2 * block + 1),
        })
        .collect()
}

/// How far hard MACs may be off the target before people are told, as a share of the target.
const NOTABLE_MISS: f64 = 0.01;

/// The same in shared mode, which one threshold cannot serve at every batch size.
const NOTABLE_TOGETHER: f64 = 0.05;

/// A threshold beyond this was not trained for: the noise of training takes a decision so far from its
/// margin, in nats, once in 3,000 times.
const NOTABLE_THRESHOLD: f64 = 8.0;

/// What people should know of the finished model's gates before they trust its figures.
pub(super) fn warnings(compress: &Compress, config: &Config, card: &ReportCard) -> Vec<String> {
    let Some(gate) = &config.gate else {
        return Vec::new();
    };
    let collapse = match gate.decide {
        DecideBy::Input => [
            one_sided(&card.gates.rate),
            one_path(card),
            saturated(card.gates.threshold),
        ],
        // They are meant to, or do not.
        DecideBy::Constant | DecideBy::Random => [None, None, None],
    };
    let misses = [
        missed(compress, gate.decide, card),
        missed_together(compress, card),
        missed_budgets(compress.target, &card.frontier),
    ];
    collapse.into_iter().chain(misses).flatten().collect()
}

/// Gates that decide the same for every sample, in words.
fn one_sided(rates: &[BlockRate]) -> Option<String> {
    let names = |value: f64| -> Vec<String> {
        rates
            .iter()
            .flat_map(|rate| [("attn", rate.attn), ("ffn", rate.ffn)].map(|of| (rate.block, of)))
            .filter(|(_, (_, rate))| *rate == Some(value))
            .map(|(block, (module, _))| format!("blocks.{block}.{module}"))
            .collect()
    };
    let parts: Vec<String> = [("never skip", names(1.0)), ("always skip", names(0.0))]
        .into_iter()
        .filter(|(_, names)| !names.is_empty())
        .map(|(what, names)| format!("{what}: {}", names.join(", ")))
        .collect();
    (!parts.is_empty()).then(|| {
        format!(
            "gates decide the same for every validation sample; {}",
            parts.join("; ")
        )
    })
}

fn one_path(card: &ReportCard) -> Option<String> {
    card.gates.constant.then(|| {
        "all validation samples take one path: the gates do not look at their input, and the same \
         model without gates would do as well"
            .to_owned()
    })
}

/// A target that hard MACs miss, and why.
fn missed(compress: &Compress, decide: DecideBy, card: &ReportCard) -> Option<String> {
    let (target, ratio) = (compress.target, card.macs.effective_ratio);
    let reason = match decide {
        DecideBy::Constant => {
            "constant gates skip a module for all images or for none, and no choice of modules comes nearer"
        }
        DecideBy::Input | DecideBy::Random => {
            "no threshold comes nearer on the held-out training samples, or the validation images are of another kind"
        }
    };
    ((ratio - target).abs() > NOTABLE_MISS * target).then(|| {
        format!("hard MACs are {ratio:.4} of the dense model's where {target} was asked: {reason}")
    })
}

/// Batch sizes at which deciding together spends notably other MACs than deciding alone.
fn missed_together(compress: &Compress, card: &ReportCard) -> Option<String> {
    let target = compress.target;
    let off = card.macs.by_batch.iter().filter_map(|(batch, macs)| {
        let ratio = macs / card.macs.dense;
        let notable = (ratio - target).abs() > NOTABLE_TOGETHER * target;
        notable.then(|| format!("{ratio:.4} at batch {batch}"))
    });
    let off: Vec<String> = off.collect();
    (!off.is_empty()).then(|| {
        format!(
            "in shared mode hard MACs are {} where {target} was asked: the mean of a batch moves whole modules, \
             and no threshold serves all sizes",
            off.join(", ")
        )
    })
}

/// Gates that were too sure in training to be moved to the budget by it.
fn saturated(threshold: f64) -> Option<String> {
    (threshold.abs() > NOTABLE_THRESHOLD).then(|| {
        let (side, done) = if threshold > 0.0 {
            ("open", "skipped")
        } else {
            ("closed", "run")
        };
        format!(
            "the gates' threshold is {threshold:.1}: they saturated {side} in training, and modules are {done} to \
             meet the budget that hardly ever were before; a smaller compress.gate.lr_scale keeps gates within reach"
        )
    })
}

/// Calibrated budgets that hard MACs miss, besides the target.
fn missed_budgets(target: f64, frontier: &[BudgetCard]) -> Option<String> {
    let others = frontier.iter().filter(|at| {
        let off = (at.effective_ratio - at.budget).abs();
        at.budget != target && off > NOTABLE_MISS * at.budget
    });
    let off: Vec<String> = others
        .map(|at| format!("{:.4} at {}", at.effective_ratio, at.budget))
        .collect();
    (!off.is_empty()).then(|| {
        format!(
            "hard MACs miss other budgets of compress.gate.budgets: {}; no threshold comes nearer on the held-out \
             training samples, or the validation images are of another kind",
            off.join(", ")
        )
    })
}

/// The patterns of decisions over a set.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Paths {
    /// Different ones.
    pub distinct: u64,
    /// Share of samples that take the most frequent one.
    pub top_share: f64,
}

/// Counts the patterns in decisions `[samples, M]` of 0 and 1.
pub(super) fn paths(decisions_BM: &Tensor) -> Paths {
    let (samples, modules) = (decisions_BM.size()[0], decisions_BM.size()[1]);
    let mut flat = vec![0_u8; (samples * modules) as usize];
    let count = flat.len();
    decisions_BM
        .to_kind(Kind::Uint8)
        .contiguous()
        .copy_data(&mut flat, count);
    let mut counts: HashMap<&[u8], u64> = HashMap::new();
    for path in flat.chunks_exact(modules as usize) {
        *counts.entry(path).or_default() += 1;
    }
    let top = counts.values().copied().max().unwrap_or(0);
    Paths {
        distinct: counts.len() as u64,
        top_share: top as f64 / samples as f64,
    }
}

/// The decisions `[samples, M]`, permuted over the samples: the control that keeps every pattern and
/// how often it occurs, and forgets whose it is.
pub(super) fn shuffled(decisions_BM: &Tensor, seed: u64) -> Tensor {
    let mut order: Vec<i64> = (0..decisions_BM.size()[0]).collect();
    order.shuffle(&mut rng(seed, Stream::ShuffledGates, 0, 0));
    decisions_BM.index_select(0, &Tensor::from_slice(&order))
}

#[cfg(test)]
mod tests {
    use espalier_job::{Average, DecideBy, GateInput};
    use espalier_vit::{BlockStructure, Dims, GateConfig, Structure};

    use super::*;

    fn config() -> Config {
        let dims = Dims {
            image_size: 8,
            patch_size: 4,
            channels: 1,
            classes: 2,
            width: 8,
            depth: 2,
            heads: 2,
            ffn: 16,
            architecture: espalier_job::Architecture::default(),
        };
        let mut config = Config::dense(dims, vec![0.5], vec![0.5]);
        config.structure = Structure {
            blocks: vec![
                BlockStructure {
                    heads: 0,
                    neurons: 8,
                },
                BlockStructure {
                    heads: 2,
                    neurons: 16,
                },
            ],
        };
        config.gate = Some(GateConfig {
            decide: DecideBy::Input,
            input: GateInput::Mean,
            average: Average::Logits,
            hidden: 1,
            keep_init: 0.9,
            threshold: 0.0,
            threshold_shared: None,
            budget: None,
        });
        config
    }

    #[test]
    fn modules_without_a_gate_have_no_rate() {
        let rates = block_rates(&config(), &[0.0, 0.25, 1.0, 0.5]);
        assert_eq!((rates[0].attn, rates[0].ffn), (None, Some(0.25)));
        assert_eq!((rates[1].attn, rates[1].ffn), (Some(1.0), Some(0.5)));
    }

    #[test]
    fn collapsed_gates_are_named() {
        let told = |rates| one_sided(&block_rates(&config(), rates));
        assert_eq!(
            told(&[0.0, 0.0, 1.0, 0.5]).unwrap(),
            "gates decide the same for every validation sample; never skip: blocks.1.attn; \
             always skip: blocks.0.ffn"
        );
        assert_eq!(told(&[0.0, 0.1, 0.9, 0.5]), None);
    }

    #[test]
    fn gates_that_saturated_are_named() {
        assert_eq!(saturated(-3.0), None);
        assert!(saturated(32.0).unwrap().contains("saturated open"));
        assert!(saturated(-9.0).unwrap().contains("saturated closed"));
    }

    #[test]
    fn budgets_that_are_missed_are_named_but_for_the_target() {
        let frontier: Vec<BudgetCard> = [(0.4, 0.41), (0.5, 0.6), (0.6, 0.604), (0.7, 0.69)]
            .map(|(budget, effective_ratio)| BudgetCard {
                budget,
                accuracy: 0.9,
                effective_ratio,
                shared_accuracy: 0.9,
                shared_ratio: budget,
                distinct_paths: 3,
            })
            .to_vec();
        let told = missed_budgets(0.5, &frontier).unwrap();
        let expected = "compress.gate.budgets: 0.4100 at 0.4, 0.6900 at 0.7; no threshold";
        assert!(told.contains(expected), "{told}");
        assert_eq!(missed_budgets(0.5, &frontier[1..3]), None);
    }

    #[test]
    fn paths_are_counted_and_shuffling_keeps_them() {
        let decisions = Tensor::from_slice(&[1_f32, 0., 1., 0., 0., 1., 1., 0.]).reshape([4, 2]);
        let expected = Paths {
            distinct: 2,
            top_share: 0.75,
        };
        assert_eq!(paths(&decisions), expected);
        assert_eq!(paths(&shuffled(&decisions, 3)), expected);
    }
}
