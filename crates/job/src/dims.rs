use crate::{Architecture, Model, Problems};

/// The dimensions of a vision transformer, all known.
#[derive(Clone, Copy, Debug, PartialEq)]
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
    /// All that is not a dimension.
    pub architecture: Architecture,
}

impl Model {
    /// The preset's dimensions with the given fields in their place, or the given fields alone.
    ///
    /// # Errors
    /// Every field that is missing, and every pair that does not fit together.
    pub fn dims(&self) -> Result<Dims, Problems> {
        let preset = self.preset.map(|preset| preset.dims(self.classes));
        let architecture =
            self.architecture(preset.map_or_else(Default::default, |dims| dims.architecture));
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
            architecture,
        };
        problems.or(dims)?.fitting()
    }

    /// `preset` with the given fields in their place.
    fn architecture(&self, preset: Architecture) -> Architecture {
        Architecture {
            stem: self.stem.unwrap_or(preset.stem),
            distilled: self.distilled.unwrap_or(preset.distilled),
            layer_scale: match self.layer_scale {
                None => preset.layer_scale,
                Some(first) => (first > 0.0).then_some(first),
            },
            qkv_bias: self.qkv_bias.unwrap_or(preset.qkv_bias),
            qk_scale: self.qk_scale.unwrap_or(preset.qk_scale),
            norm_eps: self.norm_eps.unwrap_or(preset.norm_eps),
        }
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
            architecture,
            ..
        } = self;
        let fixed = architecture.stem.patch_size().unwrap_or(patch_size);
        problems.require(patch_size == fixed, "model.patch_size", || {
            format!("{patch_size} is not {fixed}, which this model.stem has")
        });
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
