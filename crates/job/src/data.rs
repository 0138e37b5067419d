use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where the images are and how they are prepared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// Layout of the files.
    pub format: DataFormat,
    /// Training data. A folder: for `idx` it holds `train-images-idx3-ubyte[.gz]` and
    /// `train-labels-idx1-ubyte[.gz]`, for `cifar` the `data_batch_*.bin` (or `train.bin`) files,
    /// for `image-folder` one folder per class.
    pub train: String,
    /// Validation data, never trained on. A folder: for `idx` it holds `t10k-images-idx3-ubyte[.gz]`
    /// and `t10k-labels-idx1-ubyte[.gz]`, for `cifar` `test_batch.bin` (or `test.bin`), for
    /// `image-folder` one folder per class, the same classes as in training.
    pub validation: String,
    /// Share of the training data held out to calibrate the gates' threshold, in (0, 0.5].
    #[serde(default = "calibration")]
    #[schemars(extend("exclusiveMinimum" = 0, "maximum" = 0.5))]
    pub calibration: f64,
    /// Mean per channel, of pixels scaled to 0..1. One value serves all channels.
    #[schemars(inner(range(min = 0, max = 1)))]
    pub mean: Vec<f64>,
    /// Standard deviation per channel, of pixels scaled to 0..1. One value serves all channels.
    #[schemars(inner(range(min = 1e-6, max = 1)))]
    pub std: Vec<f64>,
    /// Random changes to the training images.
    #[serde(default)]
    pub augment: Augment,
}

/// Layout of the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DataFormat {
    /// The IDX files of MNIST and Fashion-MNIST, plain or gzip.
    Idx,
    /// The binary version of CIFAR-10 or CIFAR-100.
    Cifar,
    /// JPEG or PNG files in one folder per class.
    ImageFolder,
}

/// Random changes to the training images. Each is a pure function of (seed, step, sample).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Augment {
    /// Mirror left and right with probability one half.
    #[serde(default)]
    pub flip: bool,
    /// Pad by this many zero pixels on every side, then crop at a random place.
    #[serde(default)]
    #[schemars(range(min = 0, max = 4095))]
    pub pad: u32,
}

fn calibration() -> f64 {
    0.05
}
