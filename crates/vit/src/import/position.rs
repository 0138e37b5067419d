use tch::Tensor;

use crate::Dims;

/// `pos_embed` `[1, N', D]` of square images of another size, for those of `dims`: the prefix as it is,
/// the grid by bicubic interpolation with antialiasing, as timm does. One that is no prefix and square
/// grid stays as it is, and is of another shape then.
pub(super) fn resampled(pos_embed: &Tensor, dims: &Dims) -> Tensor {
    let (prefix, side) = (dims.prefix(), dims.patches().isqrt());
    let [1, tokens, width] = pos_embed.size()[..] else {
        return pos_embed.shallow_clone();
    };
    let patches = tokens - prefix;
    let found = patches.max(0).isqrt();
    if found * found != patches || found == side || found == 0 {
        return pos_embed.shallow_clone();
    }
    tracing::info!(
        from = found,
        to = side,
        "interpolating the position embedding to another grid"
    );
    let grid_1DHW = pos_embed
        .narrow(1, prefix, patches)
        .reshape([1, found, found, width])
        .permute([0, 3, 1, 2]);
    let grid_1ND = grid_1DHW
        .internal_upsample_bicubic2d_aa([side, side], false, None, None)
        .permute([0, 2, 3, 1])
        .reshape([1, side * side, width]);
    Tensor::cat(&[pos_embed.narrow(1, 0, prefix), grid_1ND], 1)
}
