//! Images a second by number of loaders, as ratios of decoding alone on one thread in the same run.
//!
//! `cargo bench -p espalier-data --bench loader` makes 256 JPEG files of 500 by 375 pixels, loads them as
//! DeiT-S trains on them (224 by 224, all of its augmentations, in micro-batches of 32), and prints a table.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a benchmark may panic"
)]

use std::fs;
use std::path::Path;
use std::time::Instant;

use espalier_data::{Dataset, Feed, Loader, Sampler, Shape, Work};
use espalier_job::{
    Augment, Damaged, Data, DataFormat, Erase, Interpolation, Mix, RandAugment, RandomCrop,
};
use espalier_random::{Rng as _, Stream, rng};
use image::codecs::jpeg::JpegEncoder;
use image::{Rgb, RgbImage};

const IMAGES: u32 = 256;
const SIZE: (u32, u32) = (500, 375);
const MICRO_BATCH: usize = 32;
/// Steps of a measurement: twice through the set.
const STEPS: u64 = 2 * IMAGES as u64 / MICRO_BATCH as u64;

fn main() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path());
    let decoded = per_second(|| decode(folder.path()));
    println!("| loaders | images/s | of decoding alone on one thread |");
    println!("|---|---|---|");
    println!("| decoding alone | {decoded:.0} | 1.00 |");
    let cores = std::thread::available_parallelism().unwrap().get();
    let mut loaders = 1;
    while loaders <= 2 * cores {
        let loaded = per_second(|| load(folder.path(), loaders));
        println!("| {loaders} | {loaded:.0} | {:.2} |", loaded / decoded);
        loaders *= 2;
    }
}

/// Images a second: the best of three runs, each of which says how many it took.
fn per_second(run: impl Fn() -> usize) -> f64 {
    let once = || {
        let start = Instant::now();
        run() as f64 / start.elapsed().as_secs_f64()
    };
    once().max(once()).max(once())
}

/// Gradients with some noise: about as many bytes as a photograph.
fn write(folder: &Path) {
    let class = folder.join("class");
    fs::create_dir(&class).unwrap();
    for number in 0..IMAGES {
        let mut rng = rng(1, Stream::Shuffle, u64::from(number), 0);
        let shades: [u32; 3] = std::array::from_fn(|_| rng.random_range(0..128));
        let picture = RgbImage::from_fn(SIZE.0, SIZE.1, |x, y| {
            let noise = rng.random_range(0..24);
            Rgb(shades.map(|shade| (shade + x / 8 + y / 8 + noise).min(255) as u8))
        });
        let file = fs::File::create(class.join(format!("{number}.jpg"))).unwrap();
        picture
            .write_with_encoder(JpegEncoder::new_with_quality(file, 90))
            .unwrap();
    }
}

fn decode(folder: &Path) -> usize {
    let files = fs::read_dir(folder.join("class")).unwrap();
    files
        .map(|file| {
            let bytes = fs::read(file.unwrap().path()).unwrap();
            let picture = image::load_from_memory(&bytes).unwrap().into_rgb8();
            std::hint::black_box(picture);
        })
        .count()
}

fn load(folder: &Path, loaders: usize) -> usize {
    let folder = folder.to_str().unwrap().to_owned();
    let data = Data {
        format: DataFormat::ImageFolder,
        train: folder.clone(),
        validation: folder,
        calibration: 0.05,
        mean: vec![0.5],
        std: vec![0.25],
        crop_pct: 0.9,
        interpolation: Interpolation::Bicubic,
        augment: Augment::default(),
        damaged: Damaged::Refuse,
        damaged_most: 0.0,
        loaders: None,
    };
    let shape = Shape {
        channels: 3,
        image_size: 224,
        classes: 1,
    };
    let dataset = Dataset::validation(&data, shape, loaders).unwrap();
    let feed = Feed {
        sampler: Sampler::new(dataset.len(), MICRO_BATCH, 1).unwrap(),
        dataset,
        micro_batch: MICRO_BATCH,
        augment: Augment {
            crop: Some(RandomCrop::default()),
            flip: true,
            pad: 0,
            rand: Some(RandAugment::default()),
            erase: Some(Erase::default()),
        },
        mix: Some(Mix::default()),
        seed: 1,
    };
    let work = (1..=STEPS).map(|step| Work {
        step,
        micro_batch: 0,
    });
    Loader::start(feed, work)
        .unwrap()
        .map(|loaded| loaded.unwrap().batch.len())
        .sum()
}
