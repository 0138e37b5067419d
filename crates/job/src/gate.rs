use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The gates: one for MHSA and one for FFN in each block.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Gate {
    /// What decides whether a module runs.
    pub decide: DecideBy,
    /// What a gate looks at. [inferred]
    pub input: GateInput,
    /// What is averaged over a group. [inferred]
    pub average: Average,
    /// Width of the gate's hidden layer over D. [inferred: 1/8]
    #[schemars(extend("exclusiveMinimum" = 0, "maximum" = 4))]
    pub hidden_ratio: f64,
    /// Probability of keeping at the start, in (0.5, 1). [inferred: 0.95]
    #[schemars(extend("exclusiveMinimum" = 0.5, "exclusiveMaximum" = 1))]
    pub keep_init: f64,
    /// Gumbel-softmax temperature at the start of the search. [paper: 0.5, falling]
    #[schemars(extend("exclusiveMinimum" = 0, "maximum" = 100))]
    pub tau_start: f64,
    /// Gumbel-softmax temperature at the end of the tune stage.
    #[schemars(extend("exclusiveMinimum" = 0, "maximum" = 100))]
    pub tau_end: f64,
    /// mu, weight of the information term, which asks each gate to tell samples apart: minus the mutual
    /// information of sample and decision, in nats, summed over the gates. [ours]
    #[schemars(extend("minimum" = 0))]
    pub information: f64,
    /// Learning rate of the gates over that of the weights.
    #[schemars(extend("minimum" = 0, "maximum" = 10000))]
    pub lr_scale: f64,
    /// The budgets that the one finished model is to be run at; without it compress.target alone. Needs
    /// gates that decide by their input. [ours]
    pub budgets: Option<Budgets>,
}

/// A range of budgets for one finished model, which compress.target must lie in: that is the one it runs at
/// unless told otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Budgets {
    /// The least F_t.
    #[schemars(extend("exclusiveMinimum" = 0, "maximum" = 1))]
    pub lo: f64,
    /// The greatest F_t, above lo. The static part keeps as much, and compress.static_target must allow it.
    #[schemars(extend("exclusiveMinimum" = 0, "maximum" = 1))]
    pub hi: f64,
    /// What adapts to the budget.
    #[serde(default)]
    pub adapt: Adapt,
}

/// What adapts to the budget that a model is run at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Adapt {
    /// The gates see the budget, which is drawn from the range at each step, and have a threshold for each.
    #[default]
    Gates,
    /// The threshold alone, of gates that are trained for compress.target: the control.
    Threshold,
}

impl Budgets {
    /// Whether a model can be run at this budget.
    pub fn contains(&self, budget: f64) -> bool {
        (self.lo..=self.hi).contains(&budget)
    }
}

/// What decides whether a module runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DecideBy {
    /// The gate, from the block's input. [paper]
    #[default]
    Input,
    /// Two learned logits that see no input: the control that every claim about gates needs. [ours]
    Constant,
    /// Chance, at one rate for all modules that meets the budget: the baseline of equal MACs. It is
    /// drawn from the image itself, so that no answer depends on its neighbours; no ONNX. [ours]
    Random,
}

/// What a gate looks at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum GateInput {
    /// The CLS token of the block's input.
    #[default]
    Cls,
    /// The mean over the tokens of the block's input.
    Mean,
}

/// What is averaged over a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Average {
    /// The samples' logits.
    #[default]
    Logits,
    /// The samples' probabilities.
    Probability,
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            decide: DecideBy::default(),
            input: GateInput::default(),
            average: Average::default(),
            hidden_ratio: 0.125,
            keep_init: 0.95,
            tau_start: 0.5,
            tau_end: 0.1,
            information: 0.0,
            lr_scale: 4.0,
            budgets: None,
        }
    }
}
