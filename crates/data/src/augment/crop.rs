use espalier_job::RandomCrop;
use espalier_random::{Rng as _, Stream};

use super::Key;

/// Draws of an area and a ratio before the centre is taken.
const TRIES: usize = 10;

/// A part of a picture, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) left: usize,
    pub(super) top: usize,
    pub(super) width: usize,
    pub(super) height: usize,
}

/// The part of a picture of `width` by `height` that a sample sees.
pub(super) fn part(asked: &RandomCrop, key: Key, width: usize, height: usize) -> Part {
    let mut rng = key.rng(Stream::Crop);
    let area = (width * height) as f64;
    let (low, high) = (asked.min_ratio.ln(), asked.max_ratio.ln());
    for _ in 0..TRIES {
        let target = rng.random_range(asked.min_area..=asked.max_area) * area;
        let ratio = rng.random_range(low..=high).exp();
        let drawn_width = rounded((target * ratio).sqrt());
        let drawn_height = rounded((target / ratio).sqrt());
        if (1..=width).contains(&drawn_width) && (1..=height).contains(&drawn_height) {
            return Part {
                top: rng.random_range(0..=height - drawn_height),
                left: rng.random_range(0..=width - drawn_width),
                width: drawn_width,
                height: drawn_height,
            };
        }
    }
    centre(asked, width, height)
}

/// The largest centred part of an allowed ratio.
fn centre(asked: &RandomCrop, width: usize, height: usize) -> Part {
    let ratio = width as f64 / height as f64;
    let (inner_width, inner_height) = if ratio < asked.min_ratio {
        (width, rounded(width as f64 / asked.min_ratio).max(1))
    } else if ratio > asked.max_ratio {
        (rounded(height as f64 * asked.max_ratio).max(1), height)
    } else {
        (width, height)
    };
    Part {
        left: (width - inner_width) / 2,
        top: (height - inner_height) / 2,
        width: inner_width,
        height: inner_height,
    }
}

/// To the nearest integer, halves to the even one.
fn rounded(length: f64) -> usize {
    length.round_ties_even() as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn drawn(asked: &RandomCrop, step: u64, sample: u32, width: usize, height: usize) -> Part {
        let key = Key {
            seed: 1,
            step,
            sample,
        };
        part(asked, key, width, height)
    }

    proptest! {
        #[test]
        fn a_part_lies_inside_and_is_as_asked(
            step: u64, sample: u32, width in 1_usize..600, height in 1_usize..600,
        ) {
            let asked = RandomCrop::default();
            let part = drawn(&asked, step, sample, width, height);
            prop_assert!(part.width >= 1 && part.left + part.width <= width);
            prop_assert!(part.height >= 1 && part.top + part.height <= height);
            prop_assert_eq!(part, drawn(&asked, step, sample, width, height));
            // Rounding to pixels moves the area and the ratio of small parts a lot.
            if part.width > 40 && part.height > 40 {
                let ratio = part.width as f64 / part.height as f64;
                prop_assert!((0.72..1.39).contains(&ratio), "ratio {}", ratio);
            }
        }
    }

    #[test]
    fn areas_are_uniform() {
        let share = |sample| {
            let part = drawn(&RandomCrop::default(), 1, sample, 400, 400);
            (part.width * part.height) as f64 / 160_000.0
        };
        let shares: Vec<f64> = (0..4000).map(share).collect();
        assert!(shares.iter().all(|share| (0.075..=1.0).contains(share)));
        let mean = shares.iter().sum::<f64>() / 4000.0;
        // A little below (0.08 + 1) / 2: large parts of a ratio that does not fit are drawn again.
        assert!((0.47..0.55).contains(&mean), "mean {mean}");
    }

    #[test]
    fn what_never_fits_is_the_centre() {
        let asked = RandomCrop::default();
        let (wide, tall) = (drawn(&asked, 1, 1, 1000, 6), drawn(&asked, 1, 1, 6, 1000));
        assert_eq!((wide.width, wide.height, wide.left), (8, 6, 496));
        assert_eq!((tall.width, tall.height, tall.top), (6, 8, 496));
    }
}
