use tch::{Device, Tensor};

/// Samples of the batch that run a module together.
#[derive(Debug)]
pub(crate) enum Tile {
    /// This many neighbours, from this sample on: a view of the batch.
    Run(i64, i64),
    /// The samples of this index, [S].
    Scattered(Tensor),
}

impl Tile {
    /// x + module(x) of the tile's samples, in place; the others stay.
    pub(crate) fn add(&self, x_BND: &mut Tensor, module: impl Fn(&Tensor) -> Tensor) {
        match self {
            Self::Run(first, count) => {
                let mut x_SND = x_BND.narrow(0, *first, *count);
                let y_SND = module(&x_SND);
                let _ = x_SND.g_add_(&y_SND);
            }
            Self::Scattered(index_S) => {
                let y_SND = module(&x_BND.index_select(0, index_S)).to_kind(x_BND.kind());
                let _ = x_BND.index_add_(0, index_S, &y_SND);
            }
        }
    }
}

/// Samples a module runs on at a time, in a batch of samples of `tokens` tokens.
///
/// On a processor some, so that what the module makes of them is still in the cache when it is read
/// again: that of a large batch goes to memory and back, and costs a page fault for every page that
/// the allocator returned to the system in between. On a GPU all.
pub(crate) fn size(tokens: i64, batch: i64, device: Device) -> i64 {
    match device {
        Device::Cpu => (ROWS / tokens).clamp(1, batch),
        _ => batch,
    }
}

/// Rows of a tile's matrix products: with more, those are no faster per row. [ours, measured]
const ROWS: i64 = 1600;

/// The samples that `keep` in tiles of up to `size`.
pub(crate) fn tiles(keep: &[bool], size: i64, device: Device) -> Vec<Tile> {
    let kept: Vec<i64> = (0..)
        .zip(keep)
        .filter_map(|(sample, keep)| keep.then_some(sample))
        .collect();
    kept.chunks(size as usize)
        .map(|samples| match samples {
            [first, .., last] if last - first >= samples.len() as i64 => {
                Tile::Scattered(Tensor::from_slice(samples).to_device(device))
            }
            _ => Tile::Run(samples[0], samples.len() as i64),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn samples(tile: &Tile) -> Vec<i64> {
        match tile {
            Tile::Run(first, count) => (*first..first + count).collect(),
            Tile::Scattered(index_S) => Vec::try_from(index_S).unwrap(),
        }
    }

    proptest! {
        #[test]
        fn tiles_hold_every_kept_sample_once_in_order(
            keep in prop::collection::vec(any::<bool>(), 0..40),
            size in 1_i64..12,
        ) {
            let tiles = tiles(&keep, size, Device::Cpu);
            let found: Vec<i64> = tiles.iter().flat_map(samples).collect();
            let kept: Vec<i64> = (0..keep.len() as i64).filter(|&sample| keep[sample as usize]).collect();
            prop_assert_eq!(found, kept);
            prop_assert!(tiles.iter().all(|tile| samples(tile).len() as i64 <= size));
        }
    }

    #[test]
    fn neighbours_are_a_view() {
        let tiles = tiles(
            &[true, true, false, true, true, false, true],
            2,
            Device::Cpu,
        );
        assert!(matches!(
            tiles[..],
            [Tile::Run(0, 2), Tile::Run(3, 2), Tile::Run(6, 1)]
        ));
    }

    #[test]
    fn only_the_tile_changes() {
        let x = Tensor::from_slice(&[1_f32, 2.0, 3.0, 4.0]).reshape([4, 1, 1]);
        for (tile, expected) in [
            (Tile::Run(1, 2), [1_f32, 22.0, 33.0, 4.0]),
            (
                Tile::Scattered(Tensor::from_slice(&[0_i64, 3])),
                [11.0, 2.0, 3.0, 44.0],
            ),
        ] {
            let mut changed = x.copy();
            tile.add(&mut changed, |x| x * 10.0);
            assert_eq!(
                Vec::<f32>::try_from(changed.flatten(0, -1)).unwrap(),
                expected
            );
        }
    }
}
