use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Gate;

/// What is pruned, what is gated, and to which budget.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Compress {
    /// Which of the two parts are trained, and in which order.
    pub mode: Mode,
    /// F_t: total MACs of the finished model over those of the dense model, in (0, 1]. Where there are
    /// gate.budgets, the one of them that the report card's main figures are of.
    #[schemars(extend("exclusiveMinimum" = 0, "maximum" = 1))]
    pub target: f64,
    /// F_s: MACs of the finished model with every gate open over those of the dense model, in
    /// [target, 1]. Memory follows it. Without it only the total is held; sequential mode needs it.
    #[schemars(extend("exclusiveMinimum" = 0, "maximum" = 1))]
    pub static_target: Option<f64>,
    /// What the budget counts. Targets are shares of what the dense model has of it.
    pub cost: Cost,
    /// Weight of the resource loss. [paper: 100]
    #[schemars(extend("minimum" = 0))]
    pub gamma: f64,
    /// Form of the resource loss in r, how far the MACs ratio is above its target. [inferred: square]
    pub resource: ResourceForm,
    /// The search stage: weights, alpha and gates together, budget in expectation.
    pub search: Search,
    /// The tune stage: the sliced model and its gates, hard structure.
    pub tune: Tune,
    /// The static part: candidates and importance.
    #[serde(rename = "static")]
    pub static_part: Static,
    /// The dynamic part: the gates.
    pub gate: Gate,
    /// How each micro-batch is cut into groups that gate together: a mix of policies by weight.
    pub grouping: Vec<Grouping>,
}

/// Which of the two parts are trained, and in which order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Pruning and gates, jointly. [paper]
    #[default]
    Unified,
    /// Pruning first, to static_target; gates are put in after it and trained in the tune stage.
    Sequential,
    /// Pruning alone: no gates.
    Static,
    /// Gates alone: nothing is pruned.
    Dynamic,
    /// Neither: the dense model, as a baseline.
    Dense,
}

impl Compress {
    /// The greatest F_t that the finished model is run at.
    pub fn greatest_target(&self) -> f64 {
        let budgets = self.gate.budgets.filter(|_| self.mode.gates());
        budgets.map_or(self.target, |budgets| budgets.hi)
    }
}

impl Mode {
    /// Whether the search stage chooses what is removed for good.
    pub fn prunes(self) -> bool {
        matches!(self, Self::Unified | Self::Sequential | Self::Static)
    }

    /// Whether the finished model has gates.
    pub fn gates(self) -> bool {
        matches!(self, Self::Unified | Self::Sequential | Self::Dynamic)
    }

    /// Whether the gates are there from the first step, not only in the tune stage.
    pub fn gates_in_search(self) -> bool {
        self.gates() && self != Self::Sequential
    }
}

/// Form of the resource loss in r, how far the MACs ratio is above its target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ResourceForm {
    /// r^2: gentle near the target.
    #[default]
    Square,
    /// |r|: pulls as hard however near, so it wants a smaller gamma.
    Abs,
    /// max(r, 0): as abs, and nothing is asked below the target.
    Hinge,
}

/// What ranks heads and neurons.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Importance {
    /// The L2 norm of the weights that read them.
    #[default]
    Norm,
    /// First-order Taylor: |sum of weight times gradient| over the weights that read them, summed over the
    /// steps since the last ranking; the norm before there are any. [ours]
    Taylor,
}

/// What the budget counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Cost {
    /// Multiply-accumulates. [paper]
    #[default]
    Macs,
    /// Milliseconds: the sum over the modules by a table of `espalier-worker latency-table`, a file that
    /// every worker can read and that stays as it is while the job runs. [ours]
    Latency(String),
}

/// The search stage. [paper]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Search {
    /// Length in epochs; exclusive with steps.
    #[schemars(extend("minimum" = 0, "maximum" = 100000))]
    pub epochs: Option<f64>,
    /// Length in steps; exclusive with epochs.
    #[schemars(extend("maximum" = 1000000000))]
    pub steps: Option<u64>,
    /// Share of the stage in which gates are held open and the budget is not yet asked for, in [0, 1).
    #[schemars(extend("minimum" = 0, "exclusiveMaximum" = 1))]
    pub warmup: f64,
    /// Share of the stage, after the warm-up, over which the target falls from 1 to its value, in [0, 1].
    /// In sequential mode also the share of the tune stage over which it falls from static_target to
    /// target.
    #[schemars(extend("minimum" = 0, "maximum" = 1))]
    pub ramp: f64,
}

/// The tune stage. [paper]
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Tune {
    /// Length in epochs; exclusive with steps.
    #[schemars(extend("minimum" = 0, "maximum" = 100000))]
    pub epochs: Option<f64>,
    /// Length in steps; exclusive with epochs.
    #[schemars(extend("maximum" = 1000000000))]
    pub steps: Option<u64>,
}

/// The static part: what may be removed for good.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Static {
    /// Search which heads stay, 1..H per block.
    pub heads: bool,
    /// Search how many FFN neurons stay.
    pub neurons: bool,
    /// Search which whole modules (MHSA, FFN) stay.
    pub modules: bool,
    /// K, evenly spaced candidates for the number of neurons; each a multiple of 8. [ours]
    #[schemars(range(min = 1, max = 1024))]
    pub neuron_candidates: u32,
    /// Gumbel-softmax temperature at the start of the search. [paper: 0.5, falling]
    #[schemars(extend("exclusiveMinimum" = 0, "maximum" = 100))]
    pub tau_start: f64,
    /// Gumbel-softmax temperature at the end of the search.
    #[schemars(extend("exclusiveMinimum" = 0, "maximum" = 100))]
    pub tau_end: f64,
    /// Sample hard choices and pass the gradient straight through. [inferred]
    pub straight_through: bool,
    /// What ranks heads and neurons. [inferred, from UVC: norm]
    pub importance: Importance,
    /// Steps between two rankings of heads and neurons by importance. [inferred]
    #[schemars(range(min = 1, max = 1000000000))]
    pub rank_interval: u64,
    /// Probability of keeping a module at the start, in (0.5, 1).
    #[schemars(extend("exclusiveMinimum" = 0.5, "exclusiveMaximum" = 1))]
    pub keep_init: f64,
    /// Learning rate of alpha over that of the weights.
    #[schemars(extend("minimum" = 0, "maximum" = 10000))]
    pub lr_scale: f64,
}

/// A grouping policy and its share of the micro-batches.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Grouping {
    /// The policy and its arguments.
    pub policy: GroupingPolicy,
    /// Share of the micro-batches, relative to the other entries' weights.
    #[serde(default = "one")]
    #[schemars(extend("exclusiveMinimum" = 0, "maximum" = 1000000))]
    pub weight: f64,
}

/// How a micro-batch is cut into groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum GroupingPolicy {
    /// Halve, keep one half as a group, recurse on the rest: 256 -> 128, 64, .., 1, 1. [paper; inferred form]
    Recursive,
    /// As `recursive`, the cut drawn at random.
    RecursiveRandom,
    /// Each step one level of the halving tree: all groups of size B, or B/2, .., or 1.
    TreeLevel,
    /// All groups of this size; the last may be smaller.
    Uniform(#[schemars(range(min = 1, max = 65536))] u32),
    /// Sizes drawn uniformly in this range, both ends included.
    Random {
        /// Smallest size.
        #[schemars(range(min = 1, max = 65536))]
        lo: u32,
        /// Largest size.
        #[schemars(range(min = 1, max = 65536))]
        hi: u32,
    },
    /// One group: no augmentation.
    Whole,
}

impl Default for Compress {
    fn default() -> Self {
        Self {
            mode: Mode::default(),
            target: 0.5,
            static_target: None,
            cost: Cost::default(),
            gamma: 100.0,
            resource: ResourceForm::default(),
            search: Search::default(),
            tune: Tune::default(),
            static_part: Static::default(),
            gate: Gate::default(),
            grouping: vec![Grouping {
                policy: GroupingPolicy::Recursive,
                weight: 1.0,
            }],
        }
    }
}

impl Default for Search {
    fn default() -> Self {
        Self {
            epochs: None,
            steps: None,
            warmup: 0.1,
            ramp: 0.4,
        }
    }
}

impl Default for Static {
    fn default() -> Self {
        Self {
            heads: true,
            neurons: true,
            modules: true,
            neuron_candidates: 8,
            tau_start: 0.5,
            tau_end: 0.1,
            straight_through: false,
            importance: Importance::default(),
            rank_interval: 50,
            keep_init: 0.95,
            lr_scale: 10.0,
        }
    }
}

fn one() -> f64 {
    1.0
}
