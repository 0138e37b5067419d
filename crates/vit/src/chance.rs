//! What chance adds to the margins at evaluation, where it decides: the baseline of skipping at random. [ours]

use espalier_random::{Stream, logistic, rng};
use tch::{Device, Kind, Tensor};

use crate::Config;

/// Logistic noise of each module's gate for each group, [G, M].
///
/// A function of the images of the group alone, whatever their order: an image that decides alone decides
/// the same whenever and beside whomever it is seen.
pub(crate) fn chance_GM(config: &Config, x_BCHW: &Tensor, ids: &[i64]) -> Tensor {
    let modules = config.dims.modules();
    let groups = ids.iter().max().map_or(0, |&last| last + 1);
    let mut seeds = vec![0_u64; groups as usize];
    for (&id, image) in ids.iter().zip(images(config, x_BCHW)) {
        let seed = &mut seeds[id as usize];
        *seed = seed.wrapping_add(fnv1a(&image));
    }
    let noise: Vec<f32> = seeds
        .into_iter()
        .flat_map(|seed| logistic(&mut rng(seed, Stream::Chance, 0, 0), modules as usize))
        .collect();
    Tensor::from_slice(&noise)
        .reshape([groups, modules])
        .to_device(x_BCHW.device())
}

/// The images as bytes, undoing the normalisation: bytes do not depend on how a device rounds.
fn images(config: &Config, x_BCHW: &Tensor) -> Vec<Vec<u8>> {
    let per_channel = |values: &[f64]| {
        Tensor::from_slice(values)
            .to_kind(Kind::Float)
            .reshape([1, -1, 1, 1])
    };
    let scaled_BCHW =
        x_BCHW.to_device(Device::Cpu) * per_channel(&config.std) + per_channel(&config.mean);
    let bytes_BCHW = (scaled_BCHW * 255.0).round().clamp(0.0, 255.0);
    let bytes_BCHW = bytes_BCHW.to_kind(Kind::Uint8).contiguous();
    let mut flat = vec![0_u8; bytes_BCHW.numel()];
    let count = flat.len();
    bytes_BCHW.copy_data(&mut flat, count);
    let image = count / (x_BCHW.size()[0] as usize).max(1);
    flat.chunks_exact(image.max(1))
        .map(<[u8]>::to_vec)
        .collect()
}

/// The 64-bit FNV-1a hash.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_the_published_one() {
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
    }
}
