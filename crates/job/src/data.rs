use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Augment;

/// Where the images are and how they are prepared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// Layout of the files.
    pub format: DataFormat,
    /// Training data. A folder: for `idx` it holds `train-images-idx3-ubyte[.gz]` and
    /// `train-labels-idx1-ubyte[.gz]`, for `cifar` the `data_batch_*.bin` (or `train.bin`) files,
    /// for `image-folder` one folder per class. For `webdataset` and `parquet` a file, a folder of `.tar` or
    /// `.parquet` files, or a pattern: `shards/train-{000000..000146}.tar`, `data/train-*.parquet`.
    pub train: String,
    /// Validation data, never trained on. A folder: for `idx` it holds `t10k-images-idx3-ubyte[.gz]`
    /// and `t10k-labels-idx1-ubyte[.gz]`, for `cifar` `test_batch.bin` (or `test.bin`), for
    /// `image-folder` one folder per class, the same classes as in training. For `webdataset` and
    /// `parquet` a file, folder or pattern as in `train`.
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
    /// Share of the image's shorter side that evaluation sees, in [0.1, 1]: the shorter side is scaled to
    /// image_size / crop_pct, then the centre is cropped. timm's `crop_pct`.
    #[serde(default = "crop_pct")]
    #[schemars(range(min = 0.1, max = 1))]
    pub crop_pct: f64,
    /// How pixels are interpolated when an image is scaled, turned or sheared.
    #[serde(default)]
    pub interpolation: Interpolation,
    /// Random changes to the training images.
    #[serde(default)]
    pub augment: Augment,
    /// What becomes of images that cannot be decoded.
    #[serde(default)]
    pub damaged: Damaged,
    /// Largest share of a set's images that may be skipped as damaged, in [0, 1]; a rank that meets more
    /// of them fails the job.
    #[serde(default = "damaged_most")]
    #[schemars(range(min = 0, max = 1))]
    pub damaged_most: f64,
    /// Threads of a rank that load images, ahead of their use. By default its share of the machine's
    /// cores, one of them left to the rank itself. The result does not depend on it.
    #[serde(default)]
    #[schemars(range(min = 1, max = 256))]
    pub loaders: Option<u32>,
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
    /// WebDataset shards: tar files of `KEY.jpg` (or `.jpeg`, `.png`) and `KEY.cls` (or `.json` with a
    /// number `label`), those of a sample after each other.
    #[serde(rename = "webdataset")]
    WebDataset,
    /// Parquet files as Hugging Face writes them: a column `image` of encoded images and a column `label`
    /// of numbers.
    Parquet,
}

/// What becomes of images that cannot be decoded. A file that cannot be read is always an error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Damaged {
    /// They are listed and the job fails: before its first step where an image's header or end shows it,
    /// else when it is decoded.
    #[default]
    Refuse,
    /// They are logged and left out of the set where an image's header or end shows it; else the next
    /// good image of the set is used in its place.
    Skip,
}

/// How pixels are interpolated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Interpolation {
    /// Linear in both directions.
    #[default]
    Bilinear,
    /// Cubic in both directions, as DeiT was trained and evaluated.
    Bicubic,
}

fn calibration() -> f64 {
    0.05
}

fn crop_pct() -> f64 {
    1.0
}

fn damaged_most() -> f64 {
    0.01
}
