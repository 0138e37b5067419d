//! Gate decisions that rounding turned round.

use espalier_vit::Config;
use serde::Serialize;
use tch::{Kind, Tensor};

use crate::rank::{BlockRate, block_rates};

/// How often gates decide otherwise in one precision than in another, on the same samples.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Flips {
    /// Decisions that differ, over all decisions of gates; 0 without gates.
    pub rate: f64,
    /// Share of samples whose decision differs, gate by gate.
    pub gates: Vec<BlockRate>,
}

/// Compares decisions `[samples, M]` of 0 and 1 of a model of `config`.
pub(crate) fn flips(config: &Config, before_BM: &Tensor, after_BM: &Tensor) -> Flips {
    let rate_M = before_BM
        .ne_tensor(after_BM)
        .to_kind(Kind::Double)
        .mean_dim([0].as_slice(), false, Kind::Double);
    let rates: Vec<f64> = (0..rate_M.size()[0])
        .map(|module| rate_M.double_value(&[module]))
        .collect();
    let gates = block_rates(config, &rates);
    let of_gates: Vec<f64> = gates
        .iter()
        .flat_map(|block| [block.attn, block.ffn])
        .flatten()
        .collect();
    Flips {
        rate: of_gates.iter().sum::<f64>() / of_gates.len().max(1) as f64,
        gates,
    }
}

#[cfg(test)]
mod tests {
    use espalier_job::{Architecture, Gate};
    use espalier_vit::{BlockStructure, Dims, GateConfig};

    use super::*;

    fn config(gated: bool) -> Config {
        let dims = Dims {
            image_size: 8,
            patch_size: 4,
            channels: 1,
            classes: 2,
            width: 8,
            depth: 2,
            heads: 2,
            ffn: 16,
            architecture: Architecture::default(),
        };
        let mut config = Config::dense(dims, vec![0.5], vec![0.5]);
        config.structure.blocks[0] = BlockStructure {
            heads: 0,
            neurons: 8,
        };
        config.gate = gated.then(|| GateConfig::from_job(&Gate::default(), 0.5, &dims));
        config
    }

    fn decisions(values: [[f32; 4]; 4]) -> Tensor {
        Tensor::from_slice(values.as_flattened()).reshape([4, 4])
    }

    #[test]
    fn differing_decisions_are_counted_by_gate_and_over_all_gates() {
        let before = decisions([
            [0., 1., 1., 0.],
            [0., 0., 1., 0.],
            [0., 1., 1., 1.],
            [0., 1., 0., 1.],
        ]);
        let after = decisions([
            [0., 0., 1., 0.],
            [0., 1., 1., 0.],
            [0., 1., 1., 0.],
            [0., 1., 0., 1.],
        ]);
        let found = flips(&config(true), &before, &after);
        let gates: Vec<_> = found
            .gates
            .iter()
            .map(|block| (block.attn, block.ffn))
            .collect();
        assert_eq!(gates, [(None, Some(0.5)), (Some(0.0), Some(0.25))]);
        assert_eq!(found.rate, 0.25);
    }

    #[test]
    fn without_gates_nothing_can_flip() {
        let all = decisions([[0., 1., 1., 1.]; 4]);
        let found = flips(&config(false), &all, &all);
        assert_eq!(found.rate, 0.0);
        assert!(
            found
                .gates
                .iter()
                .all(|block| block.attn.is_none() && block.ffn.is_none())
        );
    }
}
