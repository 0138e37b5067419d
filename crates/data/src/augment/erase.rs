use espalier_job::Erase;
use espalier_random::{Rng as _, StandardNormal, Stream};

use super::Key;
use crate::Shape;

/// Draws of an area and a ratio before the image is left as it is.
const TRIES: usize = 10;
/// Width over height lies between this and its inverse.
const MIN_RATIO: f64 = 0.3;

/// Fills a random rectangle of `image`, CHW, with noise.
pub(super) fn apply(asked: &Erase, key: Key, shape: Shape, image: &mut [f32]) {
    let mut rng = key.rng(Stream::Erase);
    if rng.random::<f64>() >= asked.probability {
        return;
    }
    let side = shape.image_size;
    for _ in 0..TRIES {
        let area = rng.random_range(asked.min_area..=asked.max_area) * (side * side) as f64;
        let ratio = rng.random_range(MIN_RATIO.ln()..=-MIN_RATIO.ln()).exp();
        let height = (area * ratio).sqrt().round_ties_even() as usize;
        let width = (area / ratio).sqrt().round_ties_even() as usize;
        if width < side && height < side {
            let top = rng.random_range(0..=side - height);
            let left = rng.random_range(0..=side - width);
            for plane in image.chunks_exact_mut(side * side) {
                for row in plane.chunks_exact_mut(side).skip(top).take(height) {
                    row[left..left + width].fill_with(|| rng.sample(StandardNormal));
                }
            }
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape {
        channels: 3,
        image_size: 28,
        classes: 2,
    };

    /// The share of a zero image that is erased for a sample, the same in every channel.
    fn erased(probability: f64, sample: u32) -> f64 {
        let asked = Erase {
            probability,
            ..Erase::default()
        };
        let key = Key {
            seed: 1,
            step: 1,
            sample,
        };
        let mut image = vec![0.0; SHAPE.values()];
        apply(&asked, key, SHAPE, &mut image);
        let changed = |plane: &[f32]| plane.iter().filter(|&&value| value != 0.0).count();
        let counts: Vec<usize> = image.chunks(28 * 28).map(changed).collect();
        assert_eq!(counts, [counts[0]; 3]);
        counts[0] as f64 / (28.0 * 28.0)
    }

    #[test]
    fn a_rectangle_of_the_asked_size_is_erased() {
        for sample in 0..200 {
            // Within the rounding of a side to whole pixels.
            let share = erased(1.0, sample);
            assert!((0.01..0.37).contains(&share), "{share}");
            assert_eq!(erased(0.0, sample), 0.0);
        }
    }

    #[test]
    fn as_many_as_asked_are_changed() {
        let changed = (0..1000)
            .filter(|&sample| erased(0.25, sample) > 0.0)
            .count();
        assert!((200..300).contains(&changed), "{changed} of 1000");
    }
}
