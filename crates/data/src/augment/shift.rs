use espalier_job::Augment;
use espalier_random::{Rng as _, Stream};

use super::Key;
use crate::picture::Picture;

/// The changes drawn for one sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Draw {
    mirror: bool,
    /// Where the crop starts in the padded picture, in pixels from its top and left.
    top: usize,
    left: usize,
}

/// Mirrors and shifts, into black.
pub(super) fn apply(changes: &Augment, key: Key, mut picture: Picture) -> Picture {
    let draw = draw(changes, key);
    if draw.mirror {
        mirror(&mut picture);
    }
    match changes.pad as usize {
        0 => picture,
        pad => shifted(&picture, pad, draw),
    }
}

/// All is drawn whatever is used, so that one change's switch does not alter the other's draw.
fn draw(changes: &Augment, key: Key) -> Draw {
    let mut rng = key.rng(Stream::Augment);
    let mirror = rng.random::<bool>() && changes.flip;
    let room = 2 * changes.pad;
    Draw {
        mirror,
        top: rng.random_range(0..=room) as usize,
        left: rng.random_range(0..=room) as usize,
    }
}

fn mirror(picture: &mut Picture) {
    let channels = picture.channels;
    for row in picture.rows_mut() {
        row.reverse();
        // The pixels are in their places now, their channels backwards.
        row.chunks_exact_mut(channels).for_each(<[u8]>::reverse);
    }
}

fn shifted(picture: &Picture, pad: usize, draw: Draw) -> Picture {
    let (width, height, channels) = (picture.width, picture.height, picture.channels);
    let mut shifted = Picture::filled(width, height, &vec![0; channels]);
    let row_length = width * channels;
    for (row, values) in shifted.rows_mut().enumerate() {
        for (column, pixel) in values.chunks_exact_mut(channels).enumerate() {
            // Wraps below zero to far outside the picture.
            let y = (row + draw.top).wrapping_sub(pad);
            let x = (column + draw.left).wrapping_sub(pad);
            if y < height && x < width {
                let from = y * row_length + x * channels;
                pixel.copy_from_slice(&picture.pixels[from..from + channels]);
            }
        }
    }
    shifted
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// 4 by 4 pixels of two channels.
    fn picture() -> Picture {
        Picture {
            width: 4,
            height: 4,
            channels: 2,
            pixels: (1..=32).collect(),
        }
    }

    fn changed(flip: bool, pad: u32, step: u64, sample: u32) -> (Draw, Picture) {
        let changes = Augment {
            flip,
            pad,
            ..Augment::default()
        };
        let key = Key {
            seed: 3,
            step,
            sample,
        };
        (draw(&changes, key), apply(&changes, key, picture()))
    }

    #[test]
    fn nothing_asked_changes_nothing() {
        for sample in 0..20 {
            assert_eq!(changed(false, 0, 1, sample).1, picture());
        }
    }

    #[test]
    fn a_mirror_swaps_left_and_right() {
        let source = picture();
        let mirrored: Vec<u8> = source
            .rows()
            .flat_map(|row| row.chunks(2).rev().flatten().copied())
            .collect();
        let pictures: Vec<_> = (0..64).map(|sample| changed(true, 0, 1, sample)).collect();
        for (draw, now) in &pictures {
            let expected = if draw.mirror {
                &mirrored
            } else {
                &source.pixels
            };
            assert_eq!(&now.pixels, expected);
        }
        let count = pictures.iter().filter(|(draw, _)| draw.mirror).count();
        assert!((16..=48).contains(&count), "{count} of 64 are mirrored");
    }

    proptest! {
        #[test]
        fn a_crop_is_a_shifted_picture_in_black(step in 1_u64..1000, sample: u32) {
            let (draw, cropped) = changed(false, 2, step, sample);
            let source = picture();
            for y in 0..4_isize {
                for x in 0..4_isize {
                    let (from_y, from_x) = (
                        y + draw.top as isize - 2,
                        x + draw.left as isize - 2,
                    );
                    let inside = (0..4).contains(&from_y) && (0..4).contains(&from_x);
                    let at = |y: isize, x: isize| 2 * (y * 4 + x) as usize;
                    for channel in 0..2 {
                        let expected = if inside {
                            source.pixels[at(from_y, from_x) + channel]
                        } else {
                            0
                        };
                        prop_assert_eq!(cropped.pixels[at(y, x) + channel], expected);
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
