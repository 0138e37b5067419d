use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Mix each training image with another of its micro-batch, the labels in the same shares: timm's mixup
/// and cutmix. Sample i of B is mixed with sample B - 1 - i; what is drawn is a pure function of
/// (seed, step, micro-batch). The accuracy shown in training counts the label with the larger share.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Mix {
    /// Mixup: images are averaged, with a share from Beta(mixup, mixup); 0 turns it off.
    #[schemars(range(min = 0, max = 1000))]
    pub mixup: f64,
    /// Cutmix: a rectangle of the other image is put in, its area from Beta(cutmix, cutmix); 0 turns it
    /// off.
    #[schemars(range(min = 0, max = 1000))]
    pub cutmix: f64,
    /// Probability that anything is mixed.
    #[schemars(range(min = 0, max = 1))]
    pub probability: f64,
    /// Probability of cutmix rather than mixup where both are on.
    #[schemars(range(min = 0, max = 1))]
    pub switch: f64,
    /// What shares a draw.
    pub mode: MixMode,
}

/// What shares a draw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum MixMode {
    /// All samples of a micro-batch.
    #[default]
    Batch,
    /// No two samples: each has its own.
    Elem,
}

impl Default for Mix {
    fn default() -> Self {
        Self {
            mixup: 0.8,
            cutmix: 1.0,
            probability: 1.0,
            switch: 0.5,
            mode: MixMode::default(),
        }
    }
}
