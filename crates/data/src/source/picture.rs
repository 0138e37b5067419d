//! One encoded image: checked by its header and its end, or decoded.

use std::io::{self, BufRead, Cursor, Seek};
use std::path::Path;

use image::{ImageError, ImageFormat, ImageReader};

use super::complete::is_complete;
use crate::DataError;
use crate::picture::Picture;

/// Largest image, in pixels: at the widest pixel format the decoder's default limit of 512 MiB.
const MAX_PIXELS: u64 = 64 << 20;

/// Largest encoded image, in bytes.
pub(super) const MAX_BYTES: u64 = 256 << 20;

const CUT_OFF: &str = "cut off: its end is missing";

/// Checks that `file` is a JPEG or PNG of sensible size with its end, without decoding it.
pub(super) fn check(place: &Path, mut file: impl BufRead + Seek) -> Result<(), DataError> {
    let format = open(place, &mut file)?.format();
    // Before the decoder looks at the header: of a file that is cut off, it tells less.
    if let Some(format) = format
        && !is_complete(&mut file, format).map_err(DataError::read(place))?
    {
        return Err(DataError::image(place, CUT_OFF));
    }
    file.rewind().map_err(DataError::read(place))?;
    let (width, height) = open(place, &mut file)?
        .into_dimensions()
        .map_err(|error| undecodable(place, error))?;
    if width == 0 || height == 0 {
        return Err(DataError::image(
            place,
            format!("{width} x {height} pixels: it is empty"),
        ));
    }
    if u64::from(width) * u64::from(height) > MAX_PIXELS {
        let reason = format!("{width} x {height} pixels are more than the limit, {MAX_PIXELS}");
        return Err(DataError::image(place, reason));
    }
    Ok(())
}

/// The picture in `bytes`, with `channels`.
pub(super) fn decode(place: &Path, bytes: &[u8], channels: usize) -> Result<Picture, DataError> {
    check(place, Cursor::new(bytes))?;
    let decoded = open(place, Cursor::new(bytes))?
        .decode()
        .map_err(|error| undecodable(place, error))?;
    let (width, height) = (decoded.width() as usize, decoded.height() as usize);
    Ok(Picture {
        width,
        height,
        channels,
        pixels: match channels {
            1 => decoded.into_luma8().into_raw(),
            _ => decoded.into_rgb8().into_raw(),
        },
    })
}

fn open<R: BufRead + Seek>(place: &Path, file: R) -> Result<ImageReader<R>, DataError> {
    // By content alone: a file's name may promise what it does not hold.
    let reader = ImageReader::new(file)
        .with_guessed_format()
        .map_err(DataError::read(place))?;
    match reader.format() {
        Some(ImageFormat::Jpeg | ImageFormat::Png) => Ok(reader),
        _ => Err(DataError::image(place, "not a JPEG or PNG image")),
    }
}

fn undecodable(place: &Path, error: ImageError) -> DataError {
    match error {
        ImageError::IoError(error) if error.kind() != io::ErrorKind::UnexpectedEof => {
            DataError::read(place)(error)
        }
        ImageError::IoError(_) => DataError::image(place, CUT_OFF),
        error => {
            let reason = format!("damaged image: {}", error.to_string().trim_end());
            DataError::image(place, reason)
        }
    }
}
