//! Pictures stored by `crates/data/reference/make.py`.

use serde::Deserialize;

use crate::picture::Picture;

#[derive(Deserialize)]
pub(crate) struct Stored {
    width: usize,
    height: usize,
    channels: usize,
    pixels: String,
}

impl Stored {
    pub(crate) fn picture(&self) -> Picture {
        Picture {
            width: self.width,
            height: self.height,
            channels: self.channels,
            pixels: unhex(&self.pixels),
        }
    }
}

pub(crate) fn unhex(text: &str) -> Vec<u8> {
    let digit = |digit: u8| (digit as char).to_digit(16).unwrap() as u8;
    text.as_bytes()
        .chunks_exact(2)
        .map(|pair| digit(pair[0]) << 4 | digit(pair[1]))
        .collect()
}
