use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Distilled, Preset, QkScale, Stem};

/// The vision transformer to compress: a preset, with any dimension overridden, or all dimensions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// Fills in all dimensions but classes; fields given beside it win. Without it all are needed.
    #[serde(default)]
    pub preset: Option<Preset>,
    /// Side of the square input image, in pixels.
    #[serde(default)]
    #[schemars(range(min = 1, max = 4096))]
    pub image_size: Option<u32>,
    /// Side of a square patch, in pixels; divides image_size.
    #[serde(default)]
    #[schemars(range(min = 1, max = 4096))]
    pub patch_size: Option<u32>,
    /// Input channels: 1 for grey, 3 for colour.
    #[serde(default)]
    #[schemars(range(min = 1, max = 3))]
    pub channels: Option<u32>,
    /// Number of classes.
    #[schemars(range(min = 2, max = 1000000))]
    pub classes: u32,
    /// Embedding width D; a multiple of heads.
    #[serde(default)]
    #[schemars(range(min = 1, max = 16384))]
    pub width: Option<u32>,
    /// Number of blocks L.
    #[serde(default)]
    #[schemars(range(min = 1, max = 256))]
    pub depth: Option<u32>,
    /// Attention heads H per block.
    #[serde(default)]
    #[schemars(range(min = 1, max = 256))]
    pub heads: Option<u32>,
    /// FFN neurons n per block; a multiple of 8.
    #[serde(default)]
    #[schemars(range(min = 8, max = 131072))]
    pub ffn: Option<u32>,
    /// What turns the image into tokens; `patch` unless the preset says otherwise.
    #[serde(default)]
    pub stem: Option<Stem>,
    /// The distillation token of DeiT; `none` unless the preset says otherwise.
    #[serde(default)]
    pub distilled: Option<Distilled>,
    /// LayerScale, by the first value of its factors; 0 for none. None unless the preset says otherwise.
    #[serde(default)]
    #[schemars(extend("minimum" = 0, "maximum" = 10))]
    pub layer_scale: Option<f64>,
    /// Whether queries, keys and values have a bias; true unless the preset says otherwise.
    #[serde(default)]
    pub qkv_bias: Option<bool>,
    /// What the products of queries and keys are divided by; `head` unless the preset says otherwise.
    #[serde(default)]
    pub qk_scale: Option<QkScale>,
    /// Epsilon of the layer norms; 1e-6 unless the preset says otherwise. Hugging Face's ViT and DeiT
    /// have 1e-12.
    #[serde(default)]
    #[schemars(extend("exclusiveMinimum" = 0, "maximum" = 0.1))]
    pub norm_eps: Option<f64>,
    /// Where the first weights come from.
    #[serde(default)]
    pub init: Init,
    /// Start the classification heads anew: for weights without a head, or of other classes.
    #[serde(default)]
    pub new_head: bool,
}

/// Where the first weights come from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Init {
    /// Truncated normal, from the job's seed.
    #[default]
    Scratch,
    /// A safetensors file in timm's layout, Hugging Face's or the original one, as a path every
    /// worker can read. Position embeddings of another image size are interpolated.
    Safetensors(String),
    /// As safetensors, in a file of `torch.save`: the state dict itself, or under `state_dict_ema`,
    /// `model_ema`, `model` or `state_dict`. Nothing in it is executed.
    Pth(String),
    /// A dense checkpoint of the registry, as `name:alias` or `name@sha256:...`.
    Checkpoint(String),
}
