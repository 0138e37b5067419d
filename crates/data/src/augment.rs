use espalier_job::Augment;
use espalier_random::{Rng as _, Stream, rng};

use crate::Shape;

/// The random changes to the images of one step: those of a sample are a pure function of
/// (seed, step, sample).
#[derive(Clone, Copy, Debug)]
pub struct Augmentation<'a> {
    /// Which changes are made.
    pub changes: &'a Augment,
    /// The job's seed.
    pub seed: u64,
    /// The step, from 1.
    pub step: u64,
}

/// The changes drawn for one sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Draw {
    mirror: bool,
    /// Where the crop starts in the padded image, in pixels from its top and left.
    top: usize,
    left: usize,
}

impl Augmentation<'_> {
    /// Changes `image`, CHW; `black` has the value of a zero pixel per channel.
    pub(crate) fn apply(&self, sample: u32, shape: Shape, black: &[f32], image: &mut [f32]) {
        let draw = self.draw(sample);
        let (side, pad) = (shape.image_size, self.changes.pad as usize);
        for (plane, &black) in image.chunks_exact_mut(shape.plane()).zip(black) {
            if draw.mirror {
                plane.chunks_exact_mut(side).for_each(<[f32]>::reverse);
            }
            if pad > 0 {
                let source = plane.to_vec();
                for (row, values) in plane.chunks_exact_mut(side).enumerate() {
                    for (column, value) in values.iter_mut().enumerate() {
                        // Wraps below zero to far outside the image.
                        let y = (row + draw.top).wrapping_sub(pad);
                        let x = (column + draw.left).wrapping_sub(pad);
                        let inside = y < side && x < side;
                        *value = if inside { source[y * side + x] } else { black };
                    }
                }
            }
        }
    }

    /// All is drawn whatever is used, so that one change's switch does not alter the other's draw.
    fn draw(&self, sample: u32) -> Draw {
        let mut rng = rng(self.seed, Stream::Augment, self.step, u64::from(sample));
        let mirror = rng.random::<bool>() && self.changes.flip;
        let room = 2 * self.changes.pad;
        Draw {
            mirror,
            top: rng.random_range(0..=room) as usize,
            left: rng.random_range(0..=room) as usize,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SHAPE: Shape = Shape {
        channels: 2,
        image_size: 4,
        classes: 2,
    };

    fn image() -> Vec<f32> {
        (1..=32_u8).map(f32::from).collect()
    }

    fn changed(flip: bool, pad: u32, step: u64, sample: u32) -> (Draw, Vec<f32>) {
        let changes = Augment { flip, pad };
        let augmentation = Augmentation {
            changes: &changes,
            seed: 3,
            step,
        };
        let mut image = image();
        augmentation.apply(sample, SHAPE, &[-1.0, -2.0], &mut image);
        (augmentation.draw(sample), image)
    }

    #[test]
    fn nothing_asked_changes_nothing() {
        for sample in 0..20 {
            assert_eq!(changed(false, 0, 1, sample).1, image());
        }
    }

    #[test]
    fn a_mirror_swaps_left_and_right() {
        let mirrored: Vec<f32> = image()
            .chunks(4)
            .flat_map(|row| row.iter().rev().copied().collect::<Vec<_>>())
            .collect();
        let images: Vec<_> = (0..64).map(|sample| changed(true, 0, 1, sample)).collect();
        for (draw, image_now) in &images {
            let expected = if draw.mirror { &mirrored } else { &image() };
            assert_eq!(image_now, expected);
        }
        let count = images.iter().filter(|(draw, _)| draw.mirror).count();
        assert!((16..=48).contains(&count), "{count} of 64 are mirrored");
    }

    proptest! {
        #[test]
        fn a_crop_is_a_shifted_image_in_black(step in 1_u64..1000, sample: u32) {
            let (draw, cropped) = changed(false, 2, step, sample);
            let source = image();
            for channel in 0..2 {
                for y in 0..4_isize {
                    for x in 0..4_isize {
                        let (from_y, from_x) = (
                            y + draw.top as isize - 2,
                            x + draw.left as isize - 2,
                        );
                        let inside = (0..4).contains(&from_y) && (0..4).contains(&from_x);
                        let at = |y: isize, x: isize| channel * 16 + (y * 4 + x) as usize;
                        let expected = if inside {
                            source[at(from_y, from_x)]
                        } else {
                            -1.0 - channel as f32
                        };
                        prop_assert_eq!(cropped[at(y, x)], expected);
                    }
                }
            }
        }
    }

    #[test]
    fn draws_differ_by_step_and_sample() {
        let draws = |step, samples: std::ops::Range<u32>| -> Vec<Draw> {
            samples
                .map(|sample| changed(true, 8, step, sample).0)
                .collect()
        };
        assert_eq!(draws(1, 0..32), draws(1, 0..32));
        assert_ne!(draws(1, 0..32), draws(2, 0..32));
        assert_ne!(draws(1, 0..32), draws(1, 32..64));
    }
}
