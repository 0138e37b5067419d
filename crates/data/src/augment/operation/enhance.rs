//! Operations that blend a picture with a duller one, or away from it.

use super::tone::mapped;
use crate::picture::Picture;

/// Blends with its grey version.
pub(super) fn color(mut picture: Picture, factor: f32) -> Picture {
    if let 3 = picture.channels {
        for pixel in picture.pixels.chunks_exact_mut(3) {
            let grey = luma(pixel);
            pixel
                .iter_mut()
                .for_each(|value| *value = blend(grey, *value, factor));
        }
    }
    picture
}

/// Blends with its mean grey.
pub(super) fn contrast(picture: Picture, factor: f32) -> Picture {
    let pixels = picture.pixels.chunks_exact(picture.channels);
    let sum: u64 = pixels.map(|pixel| u64::from(luma(pixel))).sum();
    let mean = sum as f64 / (picture.width * picture.height) as f64;
    let mean = (mean + 0.5) as u8;
    mapped(picture, |value| blend(mean, value, factor))
}

/// Blends with black.
pub(super) fn brightness(picture: Picture, factor: f32) -> Picture {
    mapped(picture, |value| blend(0, value, factor))
}

/// Blends with its smoothed version; the pixels at the edges stay as they are.
pub(super) fn sharpness(picture: Picture, factor: f32) -> Picture {
    let (channels, row) = (picture.channels, picture.width * picture.channels);
    let mut sharp = picture.clone();
    for y in 1..picture.height.saturating_sub(1) {
        for at in y * row + channels..(y + 1) * row - channels {
            let smooth = smooth(&picture.pixels, at, channels, row);
            sharp.pixels[at] = blend(smooth, picture.pixels[at], factor);
        }
    }
    sharp
}

/// The mean of a value and its eight neighbours, itself counted five times, in the order of sums that
/// rounds as PIL's.
fn smooth(values: &[u8], at: usize, channels: usize, row: usize) -> u8 {
    const SIDE: f32 = 1.0 / 13.0;
    const MIDDLE: f32 = 5.0 / 13.0;
    let line = |at: usize, middle: f32| {
        f32::from(values[at - channels]) * SIDE
            + f32::from(values[at]) * middle
            + f32::from(values[at + channels]) * SIDE
    };
    (0.5 + line(at + row, SIDE) + line(at, MIDDLE) + line(at - row, SIDE)) as u8
}

/// ITU-R 601-2, as PIL rounds it; a grey pixel is its own.
fn luma(pixel: &[u8]) -> u8 {
    match *pixel {
        [red, green, blue] => {
            let [red, green, blue] = [red, green, blue].map(u32::from);
            ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16) as u8
        }
        _ => pixel[0],
    }
}

/// From `dull` at 0 to `value` at 1 and beyond.
fn blend(dull: u8, value: u8, factor: f32) -> u8 {
    let (dull, value) = (f32::from(dull), f32::from(value));
    // A cast from float cuts off the fraction and what is outside of 0..=255.
    (dull + factor * (value - dull)) as u8
}
