//! Files whose samples are known.

use std::fs;
use std::path::Path;

use crate::written::{TINY, data, gzip, write_idx, write_images};
use espalier_data::{Dataset, Shape, Splits, load_batch};
use espalier_job::DataFormat;
use image::{GrayImage, Luma, Rgb, RgbImage};
use tempfile::tempdir;

/// All samples of a set and their labels, in order.
fn samples(set: &Dataset) -> (Vec<f32>, Vec<i64>) {
    let all: Vec<u32> = (0..set.len() as u32).collect();
    let batch = load_batch(set, &all, None).unwrap();
    (batch.images, batch.labels)
}

#[test]
fn idx_splits_hold_every_sample_once() {
    let folder = tempdir().unwrap();
    write_idx(folder.path());
    let section = data(DataFormat::Idx, folder.path(), folder.path());
    let splits = Splits::open(&section, TINY, 2).unwrap();
    assert_eq!((splits.train.len(), splits.calibration.len()), (6, 2));

    let (images, labels) = samples(&splits.validation);
    let one = 1.0 / 255.0;
    assert_eq!(images, [0.0, 0.0, 0.0, 0.0, one, one, one, one]);
    assert_eq!(labels, [0, 1]);

    let mut seen = Vec::new();
    for set in [&splits.train, &splits.calibration] {
        let (images, labels) = samples(set);
        for (image, label) in images.chunks(4).zip(labels) {
            let number = (image[0] * 255.0).round() as i64;
            assert_eq!(number % 2, label);
            assert_eq!(image, [image[0]; 4]);
            seen.push(number);
        }
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..8).collect::<Vec<_>>());
}

#[test]
fn pixels_are_normalised_per_channel() {
    let folder = tempdir().unwrap();
    write_images(folder.path());
    let mut section = data(DataFormat::ImageFolder, folder.path(), folder.path());
    section.mean = vec![0.5, 0.0, 0.2];
    section.std = vec![0.5, 1.0, 0.1];
    let shape = Shape {
        channels: 3,
        image_size: 1,
        classes: 2,
    };
    let set = Dataset::validation(&section, shape, 2).unwrap();
    let mut image = [0.0; 3];
    set.load(0, None, &mut image).unwrap();
    assert_eq!(image, [1.0, 0.0, 0.0]);
}

#[test]
fn a_digest_is_of_the_content() {
    let digest = |change: fn(&Path)| {
        let folder = tempdir().unwrap();
        write_idx(folder.path());
        change(folder.path());
        let section = data(DataFormat::Idx, folder.path(), folder.path());
        let splits = Splits::open(&section, TINY, 2).unwrap();
        assert_eq!(splits.train.digest(), splits.calibration.digest());
        splits.digest()
    };
    let plain = digest(|_| {});
    let zipped = digest(|folder| {
        let path = folder.join("train-images-idx3-ubyte");
        let bytes = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(path.with_extension("gz"), gzip(&bytes)).unwrap();
    });
    let other = digest(|folder| {
        let path = folder.join("train-images-idx3-ubyte");
        let mut bytes = fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&path, bytes).unwrap();
    });
    assert_eq!(plain, zipped);
    assert_ne!(plain, other);
    assert!(plain.starts_with("sha256:") && plain.len() == 71, "{plain}");
}

#[test]
fn cifar_records_are_planes() {
    let folder = tempdir().unwrap();
    let shape = Shape {
        channels: 3,
        image_size: 32,
        classes: 10,
    };
    let planes: Vec<u8> = [10, 20, 30]
        .iter()
        .flat_map(|&value| [value; 1024])
        .collect();
    let ten = [&[3][..], &planes, &[7], &planes].concat();
    fs::write(folder.path().join("data_batch_1.bin"), &ten).unwrap();
    fs::write(folder.path().join("data_batch_2.bin"), &ten).unwrap();
    // CIFAR-100: the coarse label comes first and is not the one used.
    fs::write(
        folder.path().join("test.bin"),
        [&[99, 4][..], &planes].concat(),
    )
    .unwrap();
    let section = data(DataFormat::Cifar, folder.path(), folder.path());
    let splits = Splits::open(&section, shape, 2).unwrap();
    assert_eq!(splits.train.len() + splits.calibration.len(), 4);

    let (images, labels) = samples(&splits.validation);
    assert_eq!(labels, [4]);
    for (plane, value) in images.chunks(1024).zip([10.0_f32, 20.0, 30.0]) {
        assert!(
            plane
                .iter()
                .all(|&pixel| (pixel * 255.0 - value).abs() < 1e-3)
        );
    }
}

#[test]
fn an_image_is_centred_scaled_and_converted() {
    let folder = tempdir().unwrap();
    let root = folder.path();
    write_images(root);
    fs::write(root.join("cat/.hidden"), "ignored").unwrap();
    fs::write(root.join("README.txt"), "ignored").unwrap();
    // Red at the left, blue at the right, green in the middle: more of it than is kept, because pixels
    // beside what is kept count at its edges.
    let picture = RgbImage::from_fn(20, 4, |x, _| match x {
        0..6 => Rgb([255, 0, 0]),
        6..14 => Rgb([0, 255, 0]),
        _ => Rgb([0, 0, 255]),
    });
    picture.save(root.join("dog/middle.png")).unwrap();
    GrayImage::from_pixel(2, 2, Luma([51]))
        .save(root.join("dog/grey.png"))
        .unwrap();

    let section = data(DataFormat::ImageFolder, root, root);
    let colour = Shape {
        channels: 3,
        image_size: 2,
        classes: 5,
    };
    let set = Dataset::validation(&section, colour, 2).unwrap();
    let (images, labels) = samples(&set);
    let images: Vec<&[f32]> = images.chunks(12).collect();
    assert_eq!(labels, [0, 1, 1, 1]);
    assert_eq!(images[0], [[1.0; 4], [0.0; 4], [0.2; 4]].concat());
    assert!((images[1][4] - 0.8).abs() < 0.02, "{:?}", images[1]);
    assert_eq!(images[2], [0.2; 12]);
    assert_eq!(images[3], [[0.0; 4], [1.0; 4], [0.0; 4]].concat());

    let grey = Dataset::validation(
        &section,
        Shape {
            channels: 1,
            ..colour
        },
        2,
    )
    .unwrap();
    let mut image = [0.0; 4];
    grey.load(2, None, &mut image).unwrap();
    assert_eq!(image, [0.2; 4]);
}
