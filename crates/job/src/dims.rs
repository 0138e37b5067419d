use crate::{Model, Preset, Problems};

/// The dimensions of a vision transformer, all known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dims {
    /// Side of the square input image, in pixels.
    pub image_size: u32,
    /// Side of a square patch, in pixels; divides `image_size`.
    pub patch_size: u32,
    /// Input channels.
    pub channels: u32,
    /// Number of classes.
    pub classes: u32,
    /// Embedding width D.
    pub width: u32,
    /// Number of blocks L.
    pub depth: u32,
    /// Attention heads H per block.
    pub heads: u32,
    /// FFN neurons n per block.
    pub ffn: u32,
}

impl Preset {
    /// The preset's dimensions, for images of three channels and `classes` classes.
    fn dims(self, classes: u32) -> Dims {
        let (width, heads, ffn) = match self {
            Self::DeitTiny => (192, 3, 768),
            Self::DeitSmall => (384, 6, 1536),
            Self::DeitBase => (768, 12, 3072),
        };
        Dims {
            image_size: 224,
            patch_size: 16,
            channels: 3,
            classes,
            width,
            depth: 12,
            heads,
            ffn,
        }
    }
}

impl Model {
    /// The preset's dimensions with the given fields in their place, or the given fields alone.
    ///
    /// # Errors
    /// Every field that is missing, and every pair that does not fit together.
    pub fn dims(&self) -> Result<Dims, Problems> {
        let preset = self.preset.map(|preset| preset.dims(self.classes));
        let mut problems = Problems::default();
        let mut field = |name: &str, given: Option<u32>, of: fn(Dims) -> u32| {
            given.or(preset.map(of)).unwrap_or_else(|| {
                problems.add(
                    format!("model.{name}"),
                    "missing: give it, or a model.preset",
                );
                0
            })
        };
        let dims = Dims {
            image_size: field("image_size", self.image_size, |dims| dims.image_size),
            patch_size: field("patch_size", self.patch_size, |dims| dims.patch_size),
            channels: field("channels", self.channels, |dims| dims.channels),
            classes: self.classes,
            width: field("width", self.width, |dims| dims.width),
            depth: field("depth", self.depth, |dims| dims.depth),
            heads: field("heads", self.heads, |dims| dims.heads),
            ffn: field("ffn", self.ffn, |dims| dims.ffn),
        };
        problems.or(dims)?.fitting()
    }
}

impl Dims {
    /// These dimensions, if they fit together.
    fn fitting(self) -> Result<Self, Problems> {
        let mut problems = Problems::default();
        let multiple = |of: u32, by: u32| by != 0 && of != 0 && of.is_multiple_of(by);
        let Self {
            image_size,
            patch_size,
            channels,
            width,
            heads,
            ffn,
            ..
        } = self;
        problems.require(multiple(image_size, patch_size), "model.patch_size", || {
            format!("{patch_size} does not divide image_size = {image_size}")
        });
        problems.require(matches!(channels, 1 | 3), "model.channels", || {
            format!("{channels} is out of range: 1 for grey or 3 for colour")
        });
        problems.require(multiple(width, heads), "model.width", || {
            format!("{width} is not a multiple of heads = {heads}")
        });
        problems.require(multiple(ffn, 8), "model.ffn", || {
            format!("{ffn} is not a multiple of 8")
        });
        problems.or(self)
    }
}
