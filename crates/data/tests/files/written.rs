//! Small data sets written for the tests.

use std::fs;
use std::io::{Cursor, Write as _};
use std::path::Path;

use espalier_data::Shape;
use espalier_job::{Augment, Damaged, Data, DataFormat, Interpolation};
use flate2::Compression;
use flate2::write::GzEncoder;
use image::{ImageFormat, Rgb, RgbImage};

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
        crop_pct: 1.0,
        interpolation: Interpolation::Bilinear,
        augment: Augment::default(),
        damaged: Damaged::Refuse,
        damaged_most: 0.01,
        loaders: None,
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

/// A model of two classes for images of 2 by 2 coloured pixels.
pub(crate) const COLOUR: Shape = Shape {
    channels: 3,
    image_size: 2,
    classes: 2,
};

/// 2 by 2 pixels of one grey.
pub(crate) fn png(grey: u8) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    RgbImage::from_pixel(2, 2, Rgb([grey; 3]))
        .write_to(&mut bytes, ImageFormat::Png)
        .unwrap();
    bytes.into_inner()
}

/// A tar file of `members`.
pub(crate) fn shard(path: &Path, members: &[(String, Vec<u8>)]) {
    let mut builder = tar::Builder::new(fs::File::create(path).unwrap());
    for (name, bytes) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        // Written by hand: the crate refuses names that lead out of a folder.
        let (name, long) = (name.as_bytes(), name.len() > 100);
        if long {
            let mut link = tar::Header::new_gnu();
            link.set_entry_type(tar::EntryType::GNULongName);
            link.as_mut_bytes()[..13].copy_from_slice(b"././@LongLink");
            link.set_size(name.len() as u64 + 1);
            link.set_cksum();
            builder.append(&link, &[name, &[0]].concat()[..]).unwrap();
        }
        let short = name.len().min(100);
        header.as_mut_bytes()[..short].copy_from_slice(&name[..short]);
        header.set_cksum();
        builder.append(&header, &bytes[..]).unwrap();
    }
    builder.finish().unwrap();
}

/// Shards `train-000.tar` of two samples, `train-001.tar` of six and `validation.tar` of two: image i
/// is filled with 10 i and has label i % 2, by turns in a `.cls` and a `.json`.
pub(crate) fn write_shards(folder: &Path) {
    for (name, numbers) in [
        ("train-000.tar", 0..2),
        ("train-001.tar", 2..8),
        ("validation.tar", 8..10),
    ] {
        let members: Vec<(String, Vec<u8>)> = numbers
            .flat_map(|number: u8| {
                let label = match number % 3 {
                    0 => ("cls", format!("{}\n", number % 2)),
                    1 => ("json", format!("{{\"label\": {}}}", number % 2)),
                    _ => ("CLS", format!("{}", number % 2)),
                };
                [
                    (format!("{number}.png"), png(10 * number)),
                    (format!("{number}.{}", label.0), label.1.into_bytes()),
                ]
            })
            .collect();
        shard(&folder.join(name), &members);
    }
}
