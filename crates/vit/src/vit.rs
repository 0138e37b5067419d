use std::path::Path;

use espalier_job::DecideBy;
use tch::{Device, Tensor, no_grad};

use crate::block::Block;
use crate::chance::chance_GM;
use crate::init::Init;
use crate::layers::{DECAYED, LayerNorm, Linear, UNDECAYED};
use crate::mismatch::{Mismatch, is_of_a_head};
use crate::param::{Collector, Param, ParamKind};
use crate::routing::{Routed, Router, Routing};
use crate::stem::Stem;
use crate::weights::{self, Tensors, WeightsError};
use crate::{AtBudget, Config, ConfigError, GateConfig};

/// A vision transformer with timm's parameter names, whole or sliced, with or without gates.
#[derive(Debug)]
pub struct Vit {
    pub(crate) config: Config,
    pub(crate) stem: Stem,
    pub(crate) blocks: Vec<Block>,
    pub(crate) norm: LayerNorm,
    pub(crate) head: Linear,
    /// Of the distillation token.
    pub(crate) head_dist: Option<Linear>,
}

/// What a forward pass gives.
#[derive(Debug)]
pub struct Output {
    /// Class scores, [B, K]: those of the CLS token, or the mean of both heads where the distillation
    /// token has one.
    pub logits_BK: Tensor,
    /// Scores of the CLS token's head, [B, K].
    pub cls_BK: Tensor,
    /// Scores of the distillation token's head, [B, K], where there is one.
    pub dist_BK: Option<Tensor>,
    /// Sum over the samples of each module's u, [M], differentiable in training. A kept module
    /// without a gate counts every sample, a dropped module none.
    pub open_M: Tensor,
    /// Whether each module ran for each sample, 0 or 1, [B, M]; no gradient.
    pub decisions_BM: Tensor,
    /// The margin by which each module was decided, [B, M]: in training and in per-sample mode each
    /// sample's own, in shared mode the batch's. Infinite where no gate was asked.
    pub margins_BM: Tensor,
}

impl Vit {
    /// A new model: truncated normal weights drawn from `seed`, zero biases, gates at their
    /// `keep_init`. Parameters take gradients.
    ///
    /// # Errors
    /// A configuration that describes no model.
    pub fn new(config: Config, seed: u64, device: Device) -> Result<Self, ConfigError> {
        Self::build(config, Init::seeded(seed, device))
    }

    /// A model to be overwritten at once.
    pub(crate) fn blank(config: Config, device: Device) -> Result<Self, ConfigError> {
        Self::build(config, Init::blank(device))
    }

    fn build(config: Config, mut init: Init) -> Result<Self, ConfigError> {
        config.check()?;
        let dims = &config.dims;
        let stem = Stem::new(&mut init, dims);
        let structures = config.structure.blocks.iter();
        let mut blocks: Vec<Block> = structures
            .map(|structure| Block::new(&mut init, dims, structure))
            .collect();
        let norm = LayerNorm::new(&init, dims.width, dims.architecture.norm_eps);
        let mut classifier = || Linear::new(&mut init, dims.width, dims.classes);
        let head = classifier();
        let head_dist = (dims.classifiers() > 1).then(classifier);
        // Gates come last, so that the other weights of a seed are the same with and without them.
        if let Some(gate) = &config.gate {
            for block in &mut blocks {
                block.add_gates(&mut init, dims, gate);
            }
        }
        Ok(Self {
            config,
            stem,
            blocks,
            norm,
            head,
            head_dist,
        })
    }

    /// These weights with new gates, drawn from `seed`, in place of any that are there. The new model
    /// shares no storage with this one.
    ///
    /// # Errors
    /// Gates that cannot be built.
    pub fn with_gates(&self, gate: GateConfig, seed: u64) -> Result<Self, ConfigError> {
        let config = Config {
            gate: Some(gate),
            ..self.config.clone()
        };
        let gated = Self::new(config, seed, self.device())?;
        let weights = self.parameters().into_iter();
        let weights = weights
            .filter(|param| param.kind != ParamKind::Gate)
            .map(|param| (param.name, param.tensor.detach()))
            .collect();
        if let Err(mismatch) = gated.load_ungated(&weights) {
            unreachable!("both are of one structure: {mismatch}");
        }
        Ok(gated)
    }

    /// The model in a checkpoint folder: `config.json` and `model.safetensors`.
    ///
    /// # Errors
    /// A file that cannot be read or does not describe a model, tensors that do not fit it.
    pub fn open(folder: &Path, device: Device) -> Result<Self, WeightsError> {
        let config = weights::load_config(&folder.join(CONFIG_FILE))?;
        let path = folder.join(WEIGHTS_FILE);
        let tensors = weights::load_tensors(&path, device)?;
        let vit = Self::blank(config, device).map_err(|reason| WeightsError::Config {
            path: folder.join(CONFIG_FILE),
            reason,
        })?;
        vit.load(&tensors)
            .map_err(|mismatch| WeightsError::Mismatch { path, mismatch })?;
        Ok(vit)
    }

    /// Writes `config.json` and `model.safetensors` into `folder`, each whole and on disk or not at all.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn save(&self, folder: &Path) -> Result<(), WeightsError> {
        weights::save_config(&folder.join(CONFIG_FILE), &self.config)?;
        weights::save_tensors(&folder.join(WEIGHTS_FILE), &self.parameters())
    }

    /// What the model is, apart from its weights.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Where the model's tensors are.
    pub fn device(&self) -> Device {
        self.head.weight_OI.device()
    }

    /// Sets the gates' threshold (see [`crate::GateConfig::threshold`]), in shared mode too; without
    /// gates, nothing.
    pub fn set_threshold(&mut self, threshold: f64) {
        self.set_thresholds(threshold, None);
    }

    /// As [`Self::set_threshold`], with one of its own in shared mode.
    pub fn set_thresholds(&mut self, alone: f64, shared: Option<f64>) {
        if let Some(gate) = &mut self.config.gate {
            gate.threshold = alone;
            gate.threshold_shared = shared;
        }
        for gate in self.blocks.iter_mut().flat_map(Block::gates_mut) {
            gate.set_thresholds(alone, shared);
        }
    }

    /// Has the gates see the budget `target` in place of that of the configuration, where they see any; their
    /// thresholds stay. [`Self::run_at`] is what has been calibrated.
    pub fn see_budget(&mut self, target: f64) {
        if let Some(seen) = self
            .config
            .gate
            .as_mut()
            .and_then(|gate| gate.budget.as_mut())
        {
            seen.target = target;
        }
        for gate in self.blocks.iter_mut().flat_map(Block::gates_mut) {
            gate.see_budget(target);
        }
    }

    /// Keeps what was calibrated at some budgets, by rising budget, for [`Self::run_at`].
    pub fn set_budgets(&mut self, budgets: Vec<AtBudget>) {
        self.config.budgets = budgets;
    }

    /// Runs the model at another of its budgets from here on; see [`Config::at_budget`].
    ///
    /// # Errors
    /// A model without budgets, or a budget outside of them.
    pub fn run_at(&mut self, budget: f64) -> Result<(), ConfigError> {
        if let Some(gate) = self.config.at_budget(budget)?.gate {
            self.set_thresholds(gate.threshold, gate.threshold_shared);
            self.see_budget(budget);
        }
        Ok(())
    }

    /// The (skip, keep) logits that the gate of module `m` has whatever its input, [2]: the tensor
    /// itself. None where there is no gate or chance decides.
    pub fn gate_logits(&self, m: usize) -> Option<Tensor> {
        let block = &self.blocks[m / 2];
        let gate = if m.is_multiple_of(2) {
            block.attn.as_ref().and_then(|attn| attn.gate.as_ref())
        } else {
            block.ffn.as_ref().and_then(|ffn| ffn.gate.as_ref())
        };
        gate?.logits_2().map(Tensor::shallow_clone)
    }

    /// All parameters, in an order that depends on the configuration alone: the weights, then the
    /// gates block by block.
    pub fn parameters(&self) -> Vec<Param> {
        let mut params = Collector::new();
        self.stem.collect(&mut params);
        self.each_block(&mut params, Block::collect);
        params.scope("norm", |into| self.norm.collect(into, UNDECAYED));
        params.scope("head", |into| self.head.collect(into, DECAYED));
        if let Some(head_dist) = &self.head_dist {
            params.scope("head_dist", |into| head_dist.collect(into, DECAYED));
        }
        self.each_block(&mut params, Block::collect_gates);
        params.into_params()
    }

    fn each_block(&self, into: &mut Collector, collect: impl Fn(&Block, &mut Collector)) {
        into.scope("blocks", |into| {
            for (l, block) in self.blocks.iter().enumerate() {
                into.scope(&l.to_string(), |into| collect(block, into));
            }
        });
    }

    /// Copies `tensors` into the parameters, in place.
    ///
    /// # Errors
    /// Every tensor that is missing, unknown or of another shape; then nothing was copied.
    pub fn load(&self, tensors: &Tensors) -> Result<(), Mismatch> {
        weights::copy_into(&self.parameters(), tensors)
    }

    /// As [`Vit::load`] from a model without gates: the gates keep their values.
    ///
    /// # Errors
    /// As [`Vit::load`].
    pub fn load_ungated(&self, tensors: &Tensors) -> Result<(), Mismatch> {
        let mut params = self.parameters();
        params.retain(|param| param.kind != ParamKind::Gate);
        weights::copy_into(&params, tensors)
    }

    /// As [`Vit::load_ungated`] from a model of other classes, or of none: the classification heads keep
    /// their values, whatever `tensors` hold for them.
    ///
    /// # Errors
    /// As [`Vit::load`].
    pub fn load_headless(&self, tensors: &Tensors) -> Result<(), Mismatch> {
        let mut params = self.parameters();
        params.retain(|param| param.kind != ParamKind::Gate && !is_of_a_head(&param.name));
        let without_heads = tensors
            .iter()
            .filter(|(name, _)| !is_of_a_head(name))
            .map(|(name, tensor)| (name.clone(), tensor.shallow_clone()))
            .collect();
        weights::copy_into(&params, &without_heads)
    }

    /// Class scores of `x_BCHW`, normalised pixels of the configured size.
    ///
    /// # Panics
    /// When `x_BCHW` is not [B, channels, image_size, image_size] with B > 0.
    pub fn forward(&self, x_BCHW: &Tensor, routing: &Routing<'_>) -> Output {
        if routing.is_inference() {
            no_grad(|| self.run(x_BCHW, routing))
        } else {
            self.run(x_BCHW, routing)
        }
    }

    fn run(&self, x_BCHW: &Tensor, routing: &Routing<'_>) -> Output {
        let mut router = Router::new(&self.config, routing, x_BCHW);
        let tiles = x_BCHW.split(router.embedded(), 0);
        let embedded: Vec<Tensor> = tiles.iter().map(|x| self.stem.forward(x)).collect();
        let mut x_BND = match embedded.as_slice() {
            [whole] => whole.shallow_clone(),
            parts => Tensor::cat(parts, 0),
        };
        for (l, block) in self.blocks.iter().enumerate() {
            x_BND = block.forward(x_BND, l as i64, &mut router);
        }
        let Routed {
            open_M,
            decisions_BM,
            margins_BM,
        } = router.finish();
        // The norm works token by token, and the heads read the prefix only.
        let read = |head: &Linear, token| head.forward(&self.norm.forward(&x_BND.select(1, token)));
        let cls_BK = read(&self.head, 0);
        let dist_BK = self.head_dist.as_ref().map(|head| read(head, 1));
        Output {
            logits_BK: match &dist_BK {
                Some(dist_BK) => (&cls_BK + dist_BK) / 2.0,
                None => cls_BK.shallow_clone(),
            },
            cls_BK,
            dist_BK,
            open_M,
            decisions_BM,
            margins_BM,
        }
    }

    /// What chance adds at evaluation to the margins of groups of the images, [G, M]; ids as in
    /// [`crate::Groups::new`]. None unless the gates decide at random.
    pub fn chance_GM(&self, x_BCHW: &Tensor, ids: &[i64]) -> Option<Tensor> {
        let gate = self.config.gate?;
        (gate.decide == DecideBy::Random).then(|| chance_GM(&self.config, x_BCHW, ids))
    }
}

/// Name of the configuration in a checkpoint folder.
const CONFIG_FILE: &str = "config.json";

/// Name of the weights in a checkpoint folder.
const WEIGHTS_FILE: &str = "model.safetensors";
