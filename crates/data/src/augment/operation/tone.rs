//! Operations that map each value by a table.

use crate::picture::Picture;

type Histogram = [usize; 256];
type Table = [u8; 256];

/// Maps every value by `map`.
pub(super) fn mapped(mut picture: Picture, map: impl Fn(u8) -> u8) -> Picture {
    picture
        .pixels
        .iter_mut()
        .for_each(|value| *value = map(*value));
    picture
}

/// Maps every channel by a table made from its histogram; without one it stays as it is.
pub(super) fn per_channel(
    mut picture: Picture,
    table: impl Fn(&Histogram) -> Option<Table>,
) -> Picture {
    let channels = picture.channels;
    for channel in 0..channels {
        let mut histogram = [0; 256];
        for &value in picture.pixels.iter().skip(channel).step_by(channels) {
            histogram[usize::from(value)] += 1;
        }
        if let Some(table) = table(&histogram) {
            for value in picture.pixels.iter_mut().skip(channel).step_by(channels) {
                *value = table[usize::from(*value)];
            }
        }
    }
    picture
}

pub(super) fn auto_contrast(histogram: &Histogram) -> Option<Table> {
    let low = histogram.iter().position(|&count| count > 0)?;
    let high = histogram.iter().rposition(|&count| count > 0)?;
    if high <= low {
        return None;
    }
    let scale = 255.0 / (high - low) as f64;
    let offset = -(low as f64) * scale;
    // A cast from float cuts off the fraction and what is outside of 0..=255.
    Some(std::array::from_fn(|value| {
        (value as f64 * scale + offset) as u8
    }))
}

pub(super) fn equalize(histogram: &Histogram) -> Option<Table> {
    let lightest = *histogram.iter().rfind(|&&count| count > 0)?;
    let pixels: usize = histogram.iter().sum();
    let step = (pixels - lightest) / 255;
    if step == 0 {
        return None;
    }
    let mut below = step / 2;
    Some(std::array::from_fn(|value| {
        let level = below / step;
        below += histogram[value];
        u8::try_from(level).unwrap_or(u8::MAX)
    }))
}
