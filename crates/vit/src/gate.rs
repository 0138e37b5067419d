use espalier_job::{Average, DecideBy, GateInput};
use espalier_random::{Stream, logistic, rng};
use tch::{Device, Kind, Tensor};

use crate::groups::Groups;
use crate::init::Init;
use crate::layers::{INIT_STD, LayerNorm, Linear};
use crate::param::{Collector, ParamKind};
use crate::{Dims, GateConfig};

/// The gate of one module: what decides whether it runs.
#[derive(Debug)]
pub(crate) struct Gate {
    decider: Decider,
    config: GateConfig,
}

#[derive(Debug)]
enum Decider {
    /// A token -> LayerNorm -> Linear -> GELU -> Linear -> (skip, keep). [inferred]
    Input {
        norm: LayerNorm,
        fc1: Linear,
        /// w, by which the budget moves what is hidden, [r]; 0 at the start, as if it were not seen. [ours]
        budget_r: Option<Tensor>,
        fc2: Linear,
    },
    /// (skip, keep), learned, whatever the input: the control. [ours]
    Constant { logits_2: Tensor },
    /// Nothing is learned: the noise decides. [ours]
    Random,
}

impl Gate {
    pub(crate) fn new(init: &mut Init, dims: &Dims, config: &GateConfig) -> Self {
        let log_odds = (config.keep_init / (1.0 - config.keep_init)).ln();
        let logits = [-log_odds / 2.0, log_odds / 2.0];
        let decider = match config.decide {
            DecideBy::Input => Decider::Input {
                norm: LayerNorm::new(init, dims.width, NORM_EPS),
                fc1: Linear::new(init, dims.width, config.hidden),
                budget_r: config.budget.map(|_| init.constant(&[config.hidden], 0.0)),
                fc2: Linear {
                    weight_OI: init.trunc_normal(&[2, config.hidden], INIT_STD),
                    bias_O: Some(init.vector(&logits)),
                },
            },
            DecideBy::Constant => Decider::Constant {
                logits_2: init.vector(&logits),
            },
            DecideBy::Random => Decider::Random,
        };
        Self {
            decider,
            config: *config,
        }
    }

    /// z_keep - z_skip of each sample, from the block's input: [B, N, D] -> [B].
    pub(crate) fn margin_B(&self, x_BND: &Tensor) -> Tensor {
        let batch = x_BND.size()[0];
        match &self.decider {
            Decider::Input {
                norm,
                fc1,
                budget_r,
                fc2,
            } => {
                let token_BD = match self.config.input {
                    GateInput::Cls => x_BND.select(1, 0),
                    GateInput::Mean => x_BND.mean_dim(1, false, None),
                };
                let mut hidden_Br = fc1.forward(&norm.forward(&token_BD));
                if let (Some(w_r), Some(seen)) = (budget_r, self.config.budget) {
                    hidden_Br += w_r * seen.phi();
                }
                difference(&fc2.forward(&hidden_Br.gelu("none")))
            }
            Decider::Constant { logits_2 } => {
                difference(&logits_2.unsqueeze(0)).expand([batch], false)
            }
            Decider::Random => Tensor::zeros([batch], (Kind::Float, x_BND.device())),
        }
    }

    /// zbar_keep - zbar_skip of each group: [B] -> [G].
    pub(crate) fn margin_G(&self, margin_B: &Tensor, groups: &Groups) -> Tensor {
        match (&self.decider, self.config.average) {
            (Decider::Input { .. }, Average::Logits) => groups.mean_G(margin_B),
            (Decider::Input { .. }, Average::Probability) => {
                groups.mean_G(&margin_B.sigmoid()).logit(EPS_PROBABILITY)
            }
            // All samples have the same, and a mean would round it.
            _ => margin_B.narrow(0, 0, 1).expand([groups.count()], false),
        }
    }

    /// u of each group, hard 0 or 1 with the gradient of the soft choice: [G] -> [G].
    ///
    /// softmax((zbar + g) / tau)[keep] of two choices is the sigmoid of the difference, so
    /// `noise_G` is the difference of the pair, g_keep - g_skip.
    pub(crate) fn sample_G(&self, margin_G: &Tensor, noise_G: &Tensor, tau: f64) -> Tensor {
        let noisy_G = margin_G + noise_G;
        let soft_G = (&noisy_G / tau).sigmoid();
        // Exactly what [`Gate::keeps`] says where the noise is minus the threshold.
        noisy_G.gt(0.0).to_kind(Kind::Float) + (&soft_G - soft_G.detach())
    }

    /// Whether each margin, of a group of `samples`, is above the threshold: bool, the shape of `margin`.
    pub(crate) fn keeps(&self, margin: &Tensor, samples: i64) -> Tensor {
        margin.gt(self.config.threshold_of(samples))
    }

    pub(crate) fn set_thresholds(&mut self, alone: f64, shared: Option<f64>) {
        self.config.threshold = alone;
        self.config.threshold_shared = shared;
    }

    /// Has the gate see the budget `target`, if it sees any.
    pub(crate) fn see_budget(&mut self, target: f64) {
        if let Some(seen) = &mut self.config.budget {
            seen.target = target;
        }
    }

    /// (skip, keep) whatever the input: what the last layer adds, or all there is. None where chance decides.
    pub(crate) fn logits_2(&self) -> Option<&Tensor> {
        match &self.decider {
            Decider::Input { fc2, .. } => fc2.bias_O.as_ref(),
            Decider::Constant { logits_2 } => Some(logits_2),
            Decider::Random => None,
        }
    }

    pub(crate) fn collect(&self, into: &mut Collector) {
        let kinds = [ParamKind::Gate; 2];
        match &self.decider {
            Decider::Input {
                norm,
                fc1,
                budget_r,
                fc2,
            } => {
                into.scope("norm", |into| norm.collect(into, kinds));
                into.scope("fc1", |into| fc1.collect(into, kinds));
                if let Some(w_r) = budget_r {
                    into.add("budget", w_r, ParamKind::Gate);
                }
                into.scope("fc2", |into| fc2.collect(into, kinds));
            }
            Decider::Constant { logits_2 } => into.add("logits", logits_2, ParamKind::Gate),
            Decider::Random => {}
        }
    }
}

/// keep - skip: [.., 2] -> [..].
fn difference(z_B2: &Tensor) -> Tensor {
    z_B2.select(1, 1) - z_B2.select(1, 0)
}

/// Epsilon of the gates' norms, whatever that of the model.
const NORM_EPS: f64 = 1e-6;

/// Keeps the logit of a mean probability finite when all samples of a group are certain.
const EPS_PROBABILITY: f64 = 1e-6;

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
    let differences = logistic(&mut rng, (groups * modules) as usize);
    Tensor::from_slice(&differences)
        .reshape([groups, modules])
        .to_device(device)
}
