use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Random changes to the training images, in this order. Each is a pure function of (seed, step, sample).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Augment {
    /// Crop a random part of the image and scale it to image_size: timm's random-resized-crop.
    #[serde(default)]
    pub crop: Option<RandomCrop>,
    /// Mirror left and right with probability one half.
    #[serde(default)]
    pub flip: bool,
    /// Pad by this many zero pixels on every side, then crop at a random place.
    #[serde(default)]
    #[schemars(range(min = 0, max = 4095))]
    pub pad: u32,
    /// A few random operations on colours and geometry: timm's `rand-m9-mstd0.5-inc1` and its kin.
    #[serde(default)]
    pub rand: Option<RandAugment>,
    /// Fill a random rectangle with noise.
    #[serde(default)]
    pub erase: Option<Erase>,
}

/// Crop a random part of the image and scale it to image_size. The area and the aspect ratio are drawn
/// up to ten times; when no draw fits, the largest centred part of an allowed ratio is taken.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RandomCrop {
    /// Smallest part of the image's area.
    #[schemars(extend("exclusiveMinimum" = 0, "maximum" = 1))]
    pub min_area: f64,
    /// Largest part of the image's area.
    #[schemars(extend("exclusiveMinimum" = 0, "maximum" = 1))]
    pub max_area: f64,
    /// Smallest width over height.
    #[schemars(range(min = 0.01, max = 100))]
    pub min_ratio: f64,
    /// Largest width over height.
    #[schemars(range(min = 0.01, max = 100))]
    pub max_ratio: f64,
}

/// Operations drawn with replacement from timm's increasing set (auto-contrast, equalize, invert, rotate,
/// posterize, solarize, solarize-add, colour, contrast, brightness, sharpness, shear and translate).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RandAugment {
    /// Operations drawn for an image; timm's `n`.
    #[schemars(range(min = 1, max = 16))]
    pub operations: u32,
    /// Mean strength, of 10; timm's `m`.
    #[schemars(range(min = 0, max = 10))]
    pub magnitude: f64,
    /// Standard deviation of the strength, which stays within 0 and 10; timm's `mstd`.
    #[schemars(range(min = 0, max = 100))]
    pub std: f64,
    /// Probability that a drawn operation is applied; timm's `p`.
    #[schemars(range(min = 0, max = 1))]
    pub probability: f64,
}

/// Fill a random rectangle with noise of the normal distribution, pixel by pixel, after the image is
/// normalised: timm's random erasing in `pixel` mode.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Erase {
    /// Probability that an image is changed; timm's `reprob`.
    #[schemars(range(min = 0, max = 1))]
    pub probability: f64,
    /// Smallest part of the image's area.
    #[schemars(extend("exclusiveMinimum" = 0, "maximum" = 1))]
    pub min_area: f64,
    /// Largest part of the image's area.
    #[schemars(extend("exclusiveMinimum" = 0, "maximum" = 1))]
    pub max_area: f64,
}

impl Default for RandomCrop {
    fn default() -> Self {
        Self {
            min_area: 0.08,
            max_area: 1.0,
            min_ratio: 3.0 / 4.0,
            max_ratio: 4.0 / 3.0,
        }
    }
}

impl Default for RandAugment {
    fn default() -> Self {
        Self {
            operations: 2,
            magnitude: 9.0,
            std: 0.5,
            probability: 0.5,
        }
    }
}

impl Default for Erase {
    fn default() -> Self {
        Self {
            probability: 0.25,
            min_area: 0.02,
            max_area: 1.0 / 3.0,
        }
    }
}
