use espalier_job::{Model, Problems};
use serde::{Deserialize, Serialize};

/// The dimensions of the dense model. Integers are those of libtorch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
}

impl Dims {
    /// The dimensions of a job's model.
    ///
    /// # Errors
    /// Fields of `model` that are missing or do not fit together.
    pub fn from_job(model: &Model) -> Result<Self, Problems> {
        let dims = model.dims()?;
        Ok(Self {
            image_size: dims.image_size.into(),
            patch_size: dims.patch_size.into(),
            channels: dims.channels.into(),
            classes: dims.classes.into(),
            width: dims.width.into(),
            depth: dims.depth.into(),
            heads: dims.heads.into(),
            ffn: dims.ffn.into(),
        })
    }

    /// Patches of an image.
    pub fn patches(&self) -> i64 {
        (self.image_size / self.patch_size).pow(2)
    }

    /// N: the patches and the CLS token.
    pub fn tokens(&self) -> i64 {
        self.patches() + 1
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
