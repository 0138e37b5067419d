use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
    /// Where the first weights come from.
    #[serde(default)]
    pub init: Init,
}

/// Named sets of dimensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Preset {
    /// DeiT-Ti: D 192, L 12, H 3, n 768, patch 16, image 224, 3 channels.
    DeitTiny,
    /// DeiT-S: D 384, L 12, H 6, n 1536, patch 16, image 224, 3 channels.
    DeitSmall,
    /// DeiT-B: D 768, L 12, H 12, n 3072, patch 16, image 224, 3 channels.
    DeitBase,
}

/// Where the first weights come from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Init {
    /// Truncated normal, from the job's seed.
    #[default]
    Scratch,
    /// A safetensors file with timm parameter names, as a path every worker can read.
    Safetensors(String),
    /// A dense checkpoint of the registry, as `name:alias` or `name@sha256:...`.
    Checkpoint(String),
}
