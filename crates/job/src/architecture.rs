use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What tells one family of vision transformers from another, beside its dimensions.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Architecture {
    /// What turns the image into tokens.
    pub stem: Stem,
    /// The distillation token of DeiT, beside the CLS token.
    pub distilled: Distilled,
    /// First value of LayerScale's factors, one a channel of each module's output; `None` without
    /// LayerScale.
    pub layer_scale: Option<f64>,
    /// Whether queries, keys and values have a bias.
    pub qkv_bias: bool,
    /// What the products of queries and keys are divided by.
    pub qk_scale: QkScale,
    /// Epsilon of the layer norms.
    pub norm_eps: f64,
}

/// What turns an image into tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Stem {
    /// A convolution whose stride is its kernel, patch_size.
    #[default]
    Patch,
    /// Tokens-to-Token of T2T-ViT: three overlapping splits with a performer after each of the first
    /// two, 16 pixels a token in all, and a frozen sinusoid position embedding.
    T2t,
}

/// The distillation token of DeiT.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Distilled {
    /// There is none.
    #[default]
    None,
    /// A token without a head: the classes are read from the CLS token alone.
    Token,
    /// A token with a head of its own: at evaluation the scores of the two heads are averaged.
    TokenAndHead,
}

/// What the products of queries and keys are divided by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum QkScale {
    /// The root of the width of a head.
    #[default]
    Head,
    /// The root of the width D, as in the released weights of T2T-ViT.
    Width,
}

impl Default for Architecture {
    /// The plain vision transformer of timm and of DeiT.
    fn default() -> Self {
        Self {
            stem: Stem::default(),
            distilled: Distilled::default(),
            layer_scale: None,
            qkv_bias: true,
            qk_scale: QkScale::default(),
            norm_eps: 1e-6,
        }
    }
}

impl Stem {
    /// Pixels a token stands for along a side, where the stem leaves no choice.
    pub fn patch_size(self) -> Option<u32> {
        match self {
            Self::Patch => None,
            Self::T2t => Some(16),
        }
    }
}

impl Distilled {
    /// Distillation tokens.
    pub fn tokens(self) -> u32 {
        u32::from(self != Self::None)
    }

    /// Whether the distillation token has a head.
    pub fn has_head(self) -> bool {
        self == Self::TokenAndHead
    }
}
