//! One image file: checked by its header, then decoded and brought to the model's shape.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use image::imageops::{self, FilterType};
use image::{DynamicImage, ImageError, ImageFormat, ImageReader};

use super::complete::is_complete;
use crate::{DataError, Shape};

/// Largest image, in pixels: at the widest pixel format the decoder's default limit of 512 MiB.
const MAX_PIXELS: u64 = 64 << 20;

const CUT_OFF: &str = "cut off: its end is missing";

/// Checks that the file is a JPEG or PNG of sensible size with its end, without decoding it.
pub(super) fn check(path: &Path) -> Result<(), DataError> {
    let reader = open(path)?;
    let mut file = BufReader::new(File::open(path).map_err(DataError::read(path))?);
    if let Some(format) = reader.format()
        && !is_complete(&mut file, format).map_err(DataError::read(path))?
    {
        return Err(DataError::content(path, CUT_OFF));
    }
    let (width, height) = reader
        .into_dimensions()
        .map_err(|error| undecodable(path, error))?;
    if u64::from(width) * u64::from(height) > MAX_PIXELS {
        let reason = format!("{width} x {height} pixels are more than the limit, {MAX_PIXELS}");
        return Err(DataError::content(path, reason));
    }
    Ok(())
}

/// The pixels, CHW of `shape`: the largest centred square, scaled.
pub(super) fn pixels(path: &Path, shape: Shape) -> Result<Vec<u8>, DataError> {
    let picture = open(path)?
        .decode()
        .map_err(|error| undecodable(path, error))?;
    let square = centre(&picture);
    let side = shape.image_size as u32;
    let (interleaved, channels) = match shape.channels {
        1 => (scale(&square.into_luma8(), side).into_raw(), 1),
        _ => (scale(&square.into_rgb8(), side).into_raw(), 3),
    };
    let channel = |channel: usize| interleaved.iter().skip(channel).step_by(channels).copied();
    Ok((0..channels).flat_map(channel).collect())
}

fn open(path: &Path) -> Result<ImageReader<BufReader<File>>, DataError> {
    // By content alone: a file's name may promise what it does not hold.
    let file = File::open(path).map_err(DataError::read(path))?;
    let reader = ImageReader::new(BufReader::new(file))
        .with_guessed_format()
        .map_err(DataError::read(path))?;
    match reader.format() {
        Some(ImageFormat::Jpeg | ImageFormat::Png) => Ok(reader),
        _ => Err(DataError::content(path, "not a JPEG or PNG image")),
    }
}

/// Cropping first bounds the work: a long thin image would be scaled to a huge one.
fn centre(picture: &DynamicImage) -> DynamicImage {
    let (width, height) = (picture.width(), picture.height());
    let side = width.min(height);
    picture.crop_imm((width - side) / 2, (height - side) / 2, side, side)
}

fn scale<P>(square: &image::ImageBuffer<P, Vec<u8>>, side: u32) -> image::ImageBuffer<P, Vec<u8>>
where
    P: image::Pixel<Subpixel = u8> + 'static,
{
    imageops::resize(square, side, side, FilterType::Triangle)
}

fn undecodable(path: &Path, error: ImageError) -> DataError {
    match error {
        ImageError::IoError(error) if error.kind() != std::io::ErrorKind::UnexpectedEof => {
            DataError::read(path)(error)
        }
        ImageError::IoError(_) => DataError::content(path, CUT_OFF),
        error => {
            let reason = format!("damaged image: {}", error.to_string().trim_end());
            DataError::content(path, reason)
        }
    }
}
