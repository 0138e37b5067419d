use espalier_job::{Average, GateInput};
use espalier_random::{Stream, gumbel, rng};
use tch::{Device, Kind, Tensor};

use crate::groups::Groups;
use crate::init::Init;
use crate::layers::{INIT_STD, LayerNorm, Linear};
use crate::param::{Collector, ParamKind};
use crate::{Dims, GateConfig};

/// The gate of one module: a token -> LayerNorm -> Linear -> GELU -> Linear -> (skip, keep).
/// [inferred]
#[derive(Debug)]
pub(crate) struct Gate {
    norm: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    config: GateConfig,
}

impl Gate {
    pub(crate) fn new(init: &mut Init, dims: &Dims, config: &GateConfig) -> Self {
        let log_odds = (config.keep_init / (1.0 - config.keep_init)).ln();
        Self {
            norm: LayerNorm::new(init, dims.width, NORM_EPS),
            fc1: Linear::new(init, dims.width, config.hidden),
            fc2: Linear {
                weight_OI: init.trunc_normal(&[2, config.hidden], INIT_STD),
                bias_O: Some(init.vector(&[-log_odds / 2.0, log_odds / 2.0])),
            },
            config: *config,
        }
    }

    /// z_keep - z_skip of each sample, from the block's input: [B, N, D] -> [B].
    pub(crate) fn margin_B(&self, x_BND: &Tensor) -> Tensor {
        let token_BD = match self.config.input {
            GateInput::Cls => x_BND.select(1, 0),
            GateInput::Mean => x_BND.mean_dim(1, false, None),
        };
        let hidden = self.fc1.forward(&self.norm.forward(&token_BD)).gelu("none");
        let z_B2 = self.fc2.forward(&hidden);
        z_B2.select(1, 1) - z_B2.select(1, 0)
    }

    /// zbar_keep - zbar_skip of each group: [B] -> [G].
    pub(crate) fn margin_G(&self, margin_B: &Tensor, groups: &Groups) -> Tensor {
        match self.config.average {
            Average::Logits => groups.mean_G(margin_B),
            Average::Probability => groups.mean_G(&margin_B.sigmoid()).logit(EPS_PROBABILITY),
        }
    }

    /// u of each group, hard 0 or 1 with the gradient of the soft choice: [G] -> [G].
    ///
    /// softmax((zbar + g) / tau)[keep] of two choices is the sigmoid of the difference, so
    /// `noise_G` is the difference of the pair, g_keep - g_skip.
    pub(crate) fn sample_G(&self, margin_G: &Tensor, noise_G: &Tensor, tau: f64) -> Tensor {
        straight_through(&((margin_G + noise_G) / tau).sigmoid())
    }

    /// Whether each margin is above the threshold: bool, the shape of `margin`.
    pub(crate) fn keeps(&self, margin: &Tensor) -> Tensor {
        margin.gt(self.config.threshold)
    }

    pub(crate) fn set_threshold(&mut self, threshold: f64) {
        self.config.threshold = threshold;
    }

    pub(crate) fn collect(&self, into: &mut Collector) {
        let kinds = [ParamKind::Gate; 2];
        into.scope("norm", |into| self.norm.collect(into, kinds));
        into.scope("fc1", |into| self.fc1.collect(into, kinds));
        into.scope("fc2", |into| self.fc2.collect(into, kinds));
    }
}

/// Epsilon of the gates' norms, whatever that of the model.
const NORM_EPS: f64 = 1e-6;

/// Keeps the logit of a mean probability finite when all samples of a group are certain.
const EPS_PROBABILITY: f64 = 1e-6;

/// The hard value of a soft two-way choice, with its gradient.
fn straight_through(soft: &Tensor) -> Tensor {
    soft.ge(0.5).to_kind(Kind::Float) + (soft - soft.detach())
}

/// g_keep - g_skip of each module's gate for each group of micro-batch `micro_batch` in `step`, [G, M].
///
/// One Gumbel pair for every (group, module): a function of its arguments alone, so that nothing
/// depends on which rank runs the micro-batch.
pub fn noise(
    seed: u64,
    step: u64,
    micro_batch: u64,
    groups: i64,
    modules: i64,
    device: Device,
) -> Tensor {
    let mut rng = rng(seed, Stream::GateGumbel, step, micro_batch);
    let pairs = gumbel(&mut rng, (2 * groups * modules) as usize);
    let differences: Vec<f32> = pairs
        .chunks_exact(2)
        .map(|pair| pair[1] - pair[0])
        .collect();
    Tensor::from_slice(&differences)
        .reshape([groups, modules])
        .to_device(device)
}
