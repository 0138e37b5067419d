use std::fs;
use std::io::{Cursor, Read as _};
use std::path::Path;

use flate2::read::GzDecoder;
use image::GrayImage;

use crate::repository;

/// Side of an image, in pixels.
const SIDE: u32 = 28;

/// Writes the first images of Fashion-MNIST, so many for training and validation, into `dir` as IDX.
pub fn subset(dir: &Path, train: u32, validation: u32) {
    fs::create_dir_all(dir).unwrap();
    for (part, count) in [("train", train), ("t10k", validation)] {
        cut(
            dir,
            &format!("{part}-images-idx3-ubyte"),
            16,
            (SIDE * SIDE) as usize,
            count,
        );
        cut(dir, &format!("{part}-labels-idx1-ubyte"), 8, 1, count);
    }
}

/// The first `count` items of an IDX file: a header whose second word is the count, then items.
fn cut(dir: &Path, name: &str, header: usize, item: usize, count: u32) {
    let mut bytes = whole(name);
    bytes.truncate(header + item * count as usize);
    bytes[4..8].copy_from_slice(&count.to_be_bytes());
    fs::write(dir.join(name), bytes).unwrap();
}

/// A file of the data set, unpacked.
fn whole(name: &str) -> Vec<u8> {
    let source = repository()
        .join(".cache/data/fashion-mnist")
        .join(format!("{name}.gz"));
    let file = fs::File::open(&source)
        .unwrap_or_else(|e| panic!("{}: {e}: `make setup` fetches it", source.display()));
    let mut bytes = Vec::new();
    GzDecoder::new(file).read_to_end(&mut bytes).unwrap();
    bytes
}

/// Writes images of Fashion-MNIST as PNG files `train/c<class>/<number>.png` and likewise for
/// `validation`, below `dir`.
pub fn as_folder(dir: &Path, train: u32, validation: u32) {
    for (part, count, folder) in [
        ("train", train, "train"),
        ("t10k", validation, "validation"),
    ] {
        for (number, (label, pixels)) in labelled(part, count).into_iter().enumerate() {
            let class = dir.join(folder).join(format!("c{label}"));
            fs::create_dir_all(&class).unwrap();
            let image = GrayImage::from_raw(SIDE, SIDE, pixels).unwrap();
            image.save(class.join(format!("{number}.png"))).unwrap();
        }
    }
}

/// Writes images of Fashion-MNIST in the binary form of CIFAR-10: grey, in the middle of a black
/// frame.
pub fn as_cifar(dir: &Path, train: u32, validation: u32) {
    fs::create_dir_all(dir).unwrap();
    for (part, count, name) in [
        ("train", train, "data_batch_1.bin"),
        ("t10k", validation, "test_batch.bin"),
    ] {
        let mut records = Vec::new();
        for (label, pixels) in labelled(part, count) {
            let image = GrayImage::from_raw(SIDE, SIDE, pixels).unwrap();
            let mut framed = GrayImage::new(32, 32);
            image::imageops::replace(&mut framed, &image, 2, 2);
            records.push(label);
            records.extend(framed.as_raw().repeat(3));
        }
        fs::write(dir.join(name), records).unwrap();
    }
}

/// Writes images of Fashion-MNIST as the WebDataset shards `train-000.tar`, `train-001.tar` and
/// `validation-000.tar` in `dir`.
pub fn as_shards(dir: &Path, train: u32, validation: u32) {
    fs::create_dir_all(dir).unwrap();
    for (part, count, name, shards) in [
        ("train", train, "train", 2),
        ("t10k", validation, "validation", 1),
    ] {
        let samples = labelled(part, count);
        let share = samples.len().div_ceil(shards);
        for (shard, samples) in samples.chunks(share).enumerate() {
            let file = fs::File::create(dir.join(format!("{name}-{shard:03}.tar"))).unwrap();
            let mut archive = tar::Builder::new(file);
            for (number, (label, pixels)) in samples.iter().enumerate() {
                let mut png = Cursor::new(Vec::new());
                let image = GrayImage::from_raw(SIDE, SIDE, pixels.clone()).unwrap();
                image.write_to(&mut png, image::ImageFormat::Png).unwrap();
                let label = label.to_string().into_bytes();
                for (extension, bytes) in [("png", png.into_inner()), ("cls", label)] {
                    let mut header = tar::Header::new_gnu();
                    header.set_size(bytes.len() as u64);
                    header.set_mode(0o644);
                    let name = format!("{number:05}.{extension}");
                    archive.append_data(&mut header, name, &bytes[..]).unwrap();
                }
            }
            archive.finish().unwrap();
        }
    }
}

/// The first labels and images of `train` or `t10k`.
fn labelled(part: &str, count: u32) -> Vec<(u8, Vec<u8>)> {
    let images = whole(&format!("{part}-images-idx3-ubyte"));
    let labels = whole(&format!("{part}-labels-idx1-ubyte"));
    let pixels = images[16..].chunks_exact((SIDE * SIDE) as usize);
    labels[8..]
        .iter()
        .copied()
        .zip(pixels.map(<[u8]>::to_vec))
        .take(count as usize)
        .collect()
}
