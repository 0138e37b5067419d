use tch::Tensor;

use crate::Dims;
use crate::init::Init;
use crate::layers::DECAYED;
use crate::param::Collector;

/// Cuts the image into patches and embeds each: a convolution whose stride is its kernel.
#[derive(Debug)]
pub(super) struct PatchEmbed {
    /// [D, C, patch, patch]
    weight: Tensor,
    bias_D: Tensor,
    patch_size: i64,
}

impl PatchEmbed {
    pub(super) fn new(init: &mut Init, dims: &Dims) -> Self {
        let patch = dims.patch_size;
        let shape = [dims.width, dims.channels, patch, patch];
        // The spread of PyTorch's own initial convolution, which DeiT keeps.
        let std = (1.0 / (3 * dims.channels * patch * patch) as f64).sqrt();
        Self {
            weight: init.trunc_normal(&shape, std),
            bias_D: init.constant(&[dims.width], 0.0),
            patch_size: patch,
        }
    }

    /// `x_BCHW` -> [B, patches, D], row by row.
    pub(super) fn forward(&self, x_BCHW: &Tensor) -> Tensor {
        let (batch, channels, side, _) = x_BCHW.size4().unwrap_or_else(|error| {
            panic!("an image batch has the four dimensions of [B, C, H, W]: {error}")
        });
        let (patch, grid) = (self.patch_size, side / self.patch_size);
        // One matrix product over flattened patches: the same numbers as the convolution, without
        // the reordering of memory that libtorch's convolution does for such shapes.
        x_BCHW
            .reshape([batch, channels, grid, patch, grid, patch])
            .permute([0, 2, 4, 1, 3, 5])
            .reshape([batch, grid * grid, channels * patch * patch])
            .linear(&self.weight.flatten(1, -1), Some(&self.bias_D))
    }

    pub(super) fn collect(&self, into: &mut Collector) {
        into.scope("proj", |into| {
            into.add("weight", &self.weight, DECAYED[0]);
            into.add("bias", &self.bias_D, DECAYED[1]);
        });
    }

    pub(super) fn macs(dims: &Dims) -> i64 {
        dims.patches() * dims.width * dims.channels * dims.patch_size * dims.patch_size
    }

    pub(super) fn params(dims: &Dims) -> i64 {
        dims.width * dims.channels * dims.patch_size * dims.patch_size + dims.width
    }
}
