use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Mix;

/// How the steps are run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Train {
    /// Samples in a step, over all workers.
    #[schemars(range(min = 1, max = 1048576))]
    pub global_batch: u32,
    /// Samples in a micro-batch; divides global_batch. Groups never span two micro-batches, and
    /// the result does not depend on which worker runs which.
    #[schemars(range(min = 1, max = 65536))]
    pub micro_batch: u32,
    /// Seed of every random choice of the job.
    #[serde(default)]
    pub seed: u64,
    /// The optimiser.
    #[serde(default)]
    pub optimizer: Optimizer,
    /// The learning rate over a stage.
    #[serde(default)]
    pub schedule: Schedule,
    /// Mix images and labels.
    #[serde(default)]
    pub mix: Option<Mix>,
    /// Label smoothing, in [0, 1). The labels of mixed images are smoothed too.
    #[serde(default)]
    #[schemars(extend("minimum" = 0, "exclusiveMaximum" = 1))]
    pub label_smoothing: f64,
    /// Decay of the moving average of the weights that is evaluated and published; 0 turns it off.
    #[serde(default)]
    #[schemars(extend("minimum" = 0, "exclusiveMaximum" = 1))]
    pub ema_decay: f64,
    /// Number format in which gradients are summed over the workers.
    #[serde(default)]
    pub reduce: ReduceDtype,
    /// Learn from a dense teacher. [inferred]
    #[serde(default)]
    pub distillation: Option<Distillation>,
    /// Steps between two metrics records.
    #[serde(default = "metrics_every")]
    #[schemars(range(min = 1, max = 1000000000))]
    pub metrics_every: u64,
}

/// AdamW.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Optimizer {
    /// Peak learning rate of the weights.
    #[schemars(extend("exclusiveMinimum" = 0, "maximum" = 10))]
    pub lr: f64,
    /// Decoupled weight decay; none on norms, biases, position and CLS embeddings, alpha and gates.
    #[schemars(extend("minimum" = 0, "maximum" = 10))]
    pub weight_decay: f64,
    /// Decay of the mean of gradients.
    #[schemars(extend("minimum" = 0, "exclusiveMaximum" = 1))]
    pub beta1: f64,
    /// Decay of the mean of squared gradients.
    #[schemars(extend("minimum" = 0, "exclusiveMaximum" = 1))]
    pub beta2: f64,
    /// Added to the root of the second moment.
    #[schemars(extend("exclusiveMinimum" = 0, "maximum" = 1))]
    pub eps: f64,
    /// Largest norm of the whole gradient; 0 turns clipping off.
    #[schemars(extend("minimum" = 0))]
    pub clip_norm: f64,
}

/// The learning rate over a stage: linear warm-up, then cosine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Schedule {
    /// Share of the stage spent warming up, in [0, 1).
    #[schemars(extend("minimum" = 0, "exclusiveMaximum" = 1))]
    pub warmup: f64,
    /// Learning rate at the end of the stage over the peak, in [0, 1].
    #[schemars(extend("minimum" = 0, "maximum" = 1))]
    pub final_ratio: f64,
}

/// Number format in which gradients are summed over the workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ReduceDtype {
    /// Sums in double precision, so that the rounded result does not depend on the number of workers.
    #[default]
    F64,
    /// Half the traffic; worker counts agree to single precision.
    F32,
}

/// Learn from a dense teacher. [inferred]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Distillation {
    /// A dense checkpoint of the registry, as `name:alias` or `name@sha256:...`.
    pub teacher: String,
    /// What is compared.
    #[serde(default)]
    pub kind: DistillationKind,
    /// Weight of the distillation loss.
    #[serde(default = "lambda")]
    #[schemars(extend("exclusiveMinimum" = 0, "maximum" = 1000))]
    pub lambda: f64,
    /// Temperature of the soft targets.
    #[serde(default = "temperature")]
    #[schemars(extend("exclusiveMinimum" = 0, "maximum" = 1000))]
    pub temperature: f64,
}

/// What is compared with the teacher.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DistillationKind {
    /// KL divergence to the teacher's softened probabilities.
    #[default]
    Soft,
    /// Cross-entropy with the teacher's decision.
    Hard,
}

impl Default for Optimizer {
    fn default() -> Self {
        Self {
            lr: 1e-4,
            weight_decay: 0.05,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            clip_norm: 1.0,
        }
    }
}

impl Default for Schedule {
    fn default() -> Self {
        Self {
            warmup: 0.1,
            final_ratio: 0.01,
        }
    }
}

fn metrics_every() -> u64 {
    10
}

fn lambda() -> f64 {
    1.0
}

fn temperature() -> f64 {
    1.0
}
