//! Whether an image file has its end: decoders of JPEG fill what is missing with grey and say nothing.

use std::io::{self, Read, Seek, SeekFrom};

use image::ImageFormat;

/// Bytes searched at a time, from the end of the file.
const WINDOW: u64 = 4096;

/// Whether the end marker of `format` is there, after whatever may hold another one.
pub(super) fn is_complete(file: &mut (impl Read + Seek), format: ImageFormat) -> io::Result<bool> {
    match format {
        ImageFormat::Jpeg => match scan_start(file)? {
            Some(start) => is_after(file, start, &[0xff, 0xd9]),
            None => Ok(false),
        },
        _ => is_after(file, 0, b"IEND"),
    }
}

/// Where the first scan of a JPEG starts: a thumbnail in a segment before it has an end of its own.
fn scan_start(file: &mut (impl Read + Seek)) -> io::Result<Option<u64>> {
    let mut position = 2;
    loop {
        file.seek(SeekFrom::Start(position))?;
        let mut segment = [0; 4];
        if let Err(error) = file.read_exact(&mut segment) {
            return match error.kind() {
                io::ErrorKind::UnexpectedEof => Ok(None),
                _ => Err(error),
            };
        }
        match segment {
            [0xff, 0xda, ..] => return Ok(Some(position)),
            // Any number of fill bytes may stand before a marker.
            [0xff, 0xff, ..] => position += 1,
            [0xff, _, high, low] => position += 2 + u64::from(u16::from_be_bytes([high, low])),
            _ => return Ok(None),
        }
    }
}

/// Whether `marker` is anywhere from `start` on; searched from the end, where it should be.
fn is_after(file: &mut (impl Read + Seek), start: u64, marker: &[u8]) -> io::Result<bool> {
    let mut end = file.seek(SeekFrom::End(0))?;
    while end > start {
        let first = end.saturating_sub(WINDOW).max(start);
        file.seek(SeekFrom::Start(first))?;
        let mut window = Vec::new();
        // A marker may lie across two windows.
        let length = end - first + marker.len() as u64 - 1;
        file.by_ref().take(length).read_to_end(&mut window)?;
        if window.windows(marker.len()).any(|bytes| bytes == marker) {
            return Ok(true);
        }
        end = first;
    }
    Ok(false)
}
