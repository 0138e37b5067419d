//! Small data sets written for the tests.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use espalier_data::Shape;
use espalier_job::{Augment, Data, DataFormat};
use flate2::Compression;
use flate2::write::GzEncoder;
use image::{Rgb, RgbImage};

/// A model of two classes for images of 2 by 2 grey pixels.
pub(crate) const TINY: Shape = Shape {
    channels: 1,
    image_size: 2,
    classes: 2,
};

/// A data section whose pixels 0, 51, .., 255 become 0, 0.2, .., 1.
pub(crate) fn data(format: DataFormat, train: &Path, validation: &Path) -> Data {
    Data {
        format,
        train: train.to_string_lossy().into_owned(),
        validation: validation.to_string_lossy().into_owned(),
        calibration: 0.25,
        mean: vec![0.0],
        std: vec![1.0],
        augment: Augment::default(),
    }
}

/// The bytes of an IDX file.
pub(crate) fn idx(magic: u32, dimensions: &[u32], body: &[u8]) -> Vec<u8> {
    let mut bytes = magic.to_be_bytes().to_vec();
    for dimension in dimensions {
        bytes.extend(dimension.to_be_bytes());
    }
    bytes.extend(body);
    bytes
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// 8 training images (plain) and 2 validation images (gzip) of 2 by 2 pixels; image i is filled
/// with i and has label i % 2.
pub(crate) fn write_idx(folder: &Path) {
    let images = |count: u8| -> Vec<u8> { (0..count).flat_map(|i| [i; 4]).collect() };
    let labels = |count: u8| -> Vec<u8> { (0..count).map(|i| i % 2).collect() };
    let write = |name: &str, bytes: Vec<u8>| fs::write(folder.join(name), bytes).unwrap();
    write(
        "train-images-idx3-ubyte",
        idx(0x0803, &[8, 2, 2], &images(8)),
    );
    write("train-labels-idx1-ubyte", idx(0x0801, &[8], &labels(8)));
    write(
        "t10k-images-idx3-ubyte.gz",
        gzip(&idx(0x0803, &[2, 2, 2], &images(2))),
    );
    write(
        "t10k-labels-idx1-ubyte.gz",
        gzip(&idx(0x0801, &[2], &labels(2))),
    );
}

/// Two classes, `cat` and `dog`, one image each: 8 by 4 pixels of one colour, a PNG and a JPEG.
pub(crate) fn write_images(folder: &Path) {
    for (class, name, colour) in [
        ("cat", "a.png", [255, 0, 51]),
        ("dog", "b.jpg", [0, 204, 0]),
    ] {
        fs::create_dir_all(folder.join(class)).unwrap();
        RgbImage::from_pixel(8, 4, Rgb(colour))
            .save(folder.join(class).join(name))
            .unwrap();
    }
}
