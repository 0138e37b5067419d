//! The operations of RandAugment on the pixels of a picture, bit by bit what PIL gives for the same
//! arguments (`reference/` has the values).

mod enhance;
mod geometry;
mod tone;

#[cfg(test)]
mod reference;

use super::Canvas;
use crate::picture::Picture;

/// An operation and its argument.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Operation {
    /// Each channel's darkest value becomes 0, its lightest 255.
    AutoContrast,
    /// Each channel's values become equally frequent, nearly.
    Equalize,
    Invert,
    /// Degrees, counter-clockwise.
    Rotate(f64),
    /// Keeps so many of the highest bits.
    Posterize(u8),
    /// Inverts values from here on.
    Solarize(u16),
    /// Adds this to values below 128.
    SolarizeAdd(u8),
    /// 0 gives grey, 1 changes nothing; likewise below.
    Color(f32),
    Contrast(f32),
    Brightness(f32),
    Sharpness(f32),
    /// Columns a row moves, per row.
    ShearX(f64),
    ShearY(f64),
    /// Share of the width.
    TranslateX(f64),
    TranslateY(f64),
}

impl Operation {
    pub(super) fn apply(self, picture: Picture, canvas: Canvas<'_>) -> Picture {
        match self {
            Self::AutoContrast => tone::per_channel(picture, tone::auto_contrast),
            Self::Equalize => tone::per_channel(picture, tone::equalize),
            Self::Invert => tone::mapped(picture, |value| 255 - value),
            Self::Posterize(bits) => {
                let mask = !(0xff_u8.checked_shr(u32::from(bits)).unwrap_or(0));
                tone::mapped(picture, |value| value & mask)
            }
            Self::Solarize(from) => tone::mapped(picture, |value| {
                if u16::from(value) < from {
                    value
                } else {
                    255 - value
                }
            }),
            Self::SolarizeAdd(add) => tone::mapped(picture, |value| {
                if value < 128 {
                    value.saturating_add(add)
                } else {
                    value
                }
            }),
            Self::Color(factor) => enhance::color(picture, factor),
            Self::Contrast(factor) => enhance::contrast(picture, factor),
            Self::Brightness(factor) => enhance::brightness(picture, factor),
            Self::Sharpness(factor) => enhance::sharpness(picture, factor),
            Self::Rotate(degrees) => geometry::rotate(&picture, degrees, canvas),
            Self::ShearX(by) => geometry::affine(&picture, [1.0, by, 0.0, 0.0, 1.0, 0.0], canvas),
            Self::ShearY(by) => geometry::affine(&picture, [1.0, 0.0, 0.0, by, 1.0, 0.0], canvas),
            Self::TranslateX(share) => {
                let pixels = share * picture.width as f64;
                geometry::affine(&picture, [1.0, 0.0, pixels, 0.0, 1.0, 0.0], canvas)
            }
            Self::TranslateY(share) => {
                let pixels = share * picture.height as f64;
                geometry::affine(&picture, [1.0, 0.0, 0.0, 0.0, 1.0, pixels], canvas)
            }
        }
    }
}
