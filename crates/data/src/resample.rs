//! Scaling as PIL does it: filters that widen when an image shrinks.

use espalier_job::Interpolation;
use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};

use crate::picture::Picture;

/// More of a long image than this many times its shorter side is never scaled.
const LONGEST: usize = 8;

/// The centre of `picture`, `side` by `side`, after its shorter side is scaled to `side` / `crop_pct`:
/// what timm's validation sees.
pub(crate) fn centre(
    picture: &Picture,
    side: usize,
    crop_pct: f64,
    interpolation: Interpolation,
) -> Picture {
    let (width, height) = (picture.width, picture.height);
    let shorter = width.min(height);
    let scaled = (side as f64 / crop_pct).floor() as usize;
    // Of the longer side, pixels are cut off, not fractions of them.
    let along = |length: usize| {
        let kept = length.min(shorter * LONGEST);
        let scaled = scaled * kept / shorter;
        let first = ((scaled - side) as f64 / 2.0).round_ties_even();
        let step = kept as f64 / scaled as f64;
        let cut = ((length - kept) / 2) as f64;
        (cut + first * step, side as f64 * step)
    };
    let ((left, width), (top, height)) = (along(width), along(height));
    resize(picture, (left, top, width, height), side, interpolation)
}

/// All of `picture`, `side` by `side`.
pub(crate) fn whole(picture: &Picture, side: usize, interpolation: Interpolation) -> Picture {
    let all = (0.0, 0.0, picture.width as f64, picture.height as f64);
    resize(picture, all, side, interpolation)
}

/// The part (left, top, width, height) of `picture`; what is around it counts at its edges.
fn resize(
    picture: &Picture,
    (left, top, width, height): (f64, f64, f64, f64),
    side: usize,
    interpolation: Interpolation,
) -> Picture {
    let (kind, filter) = (
        match picture.channels {
            1 => PixelType::U8,
            _ => PixelType::U8x3,
        },
        match interpolation {
            Interpolation::Bilinear => FilterType::Bilinear,
            Interpolation::Bicubic => FilterType::CatmullRom,
        },
    );
    let options = ResizeOptions::new()
        .resize_alg(ResizeAlg::Convolution(filter))
        .crop(left, top, width, height);
    let mut target = Image::new(side as u32, side as u32, kind);
    ImageRef::new(
        picture.width as u32,
        picture.height as u32,
        &picture.pixels,
        kind,
    )
    .map_err(|error| error.to_string())
    .and_then(|source| {
        let resized = Resizer::new().resize(&source, &mut target, &options);
        resized.map_err(|error| error.to_string())
    })
    // The sizes are the picture's own, and the part lies inside.
    .unwrap_or_else(|error| panic!("a picture of {width} by {height} cannot be scaled: {error}"));
    Picture {
        width: side,
        height: side,
        channels: picture.channels,
        pixels: target.into_vec(),
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;
    use crate::reference::{Stored, unhex};

    #[derive(Deserialize)]
    struct View {
        source: Stored,
        side: usize,
        crop_pct: f64,
        interpolation: Interpolation,
        pixels: String,
    }

    #[test]
    fn evaluation_sees_what_timm_s_validation_sees() {
        let views: Vec<View> =
            serde_json::from_str(include_str!("../reference/views.json")).unwrap();
        assert!(views.len() >= 10);
        for view in views {
            let source = view.source.picture();
            let seen = centre(&source, view.side, view.crop_pct, view.interpolation);
            let pixels = unhex(&view.pixels);
            assert_eq!(seen.pixels.len(), pixels.len());
            let most = seen
                .pixels
                .iter()
                .zip(&pixels)
                .map(|(a, b)| a.abs_diff(*b))
                .max();
            // PIL rounds between its two passes, and so do we, but from other fixed points.
            assert!(
                most <= Some(1),
                "{} x {} to {}: off by {most:?}",
                source.width,
                source.height,
                view.side
            );
        }
    }

    #[test]
    fn a_long_image_is_seen_in_its_middle() {
        for (width, height) in [(3000, 2), (2, 3000), (1, 1)] {
            let picture = Picture::filled(width, height, &[9, 8, 7]);
            let seen = centre(&picture, 4, 0.875, Interpolation::Bicubic);
            assert_eq!(seen, Picture::filled(4, 4, &[9, 8, 7]));
        }
    }
}
