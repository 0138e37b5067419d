use espalier_job::{Architecture, Model, Problems};
use serde::{Deserialize, Serialize};

/// The dimensions of the dense model. Integers are those of libtorch.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dims {
    /// Side of the square input image, in pixels.
    pub image_size: i64,
    /// Side of a square patch, in pixels; divides `image_size`.
    pub patch_size: i64,
    /// Input channels C.
    pub channels: i64,
    /// Number of classes K.
    pub classes: i64,
    /// Embedding width D; a multiple of `heads`.
    pub width: i64,
    /// Number of blocks L.
    pub depth: i64,
    /// Attention heads H per block.
    pub heads: i64,
    /// FFN neurons n per block; a multiple of 8.
    pub ffn: i64,
    /// All that is not a dimension; that of the plain vision transformer where a file says nothing.
    #[serde(default)]
    pub architecture: Architecture,
}

impl From<espalier_job::Dims> for Dims {
    fn from(dims: espalier_job::Dims) -> Self {
        Self {
            image_size: dims.image_size.into(),
            patch_size: dims.patch_size.into(),
            channels: dims.channels.into(),
            classes: dims.classes.into(),
            width: dims.width.into(),
            depth: dims.depth.into(),
            heads: dims.heads.into(),
            ffn: dims.ffn.into(),
            architecture: dims.architecture,
        }
    }
}

impl Dims {
    /// The dimensions of a job's model.
    ///
    /// # Errors
    /// Fields of `model` that are missing or do not fit together.
    pub fn from_job(model: &Model) -> Result<Self, Problems> {
        model.dims().map(Self::from)
    }

    /// Patches of an image.
    pub fn patches(&self) -> i64 {
        (self.image_size / self.patch_size).pow(2)
    }

    /// Tokens that stand for no patch: the CLS token, and the distillation token where there is one.
    pub fn prefix(&self) -> i64 {
        1 + i64::from(self.architecture.distilled.tokens())
    }

    /// N: the prefix and the patches.
    pub fn tokens(&self) -> i64 {
        self.prefix() + self.patches()
    }

    /// Classification heads: that of the CLS token, and that of the distillation token.
    pub fn classifiers(&self) -> i64 {
        1 + i64::from(self.architecture.distilled.has_head())
    }

    /// d: width of a head. It stays when heads are removed.
    pub fn head_dim(&self) -> i64 {
        self.width / self.heads
    }

    /// M: modules, two a block.
    pub fn modules(&self) -> i64 {
        2 * self.depth
    }
}
