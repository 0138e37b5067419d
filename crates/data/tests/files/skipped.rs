//! Images that are damaged and skipped.

use std::fs;
use std::path::Path;

use crate::written::{COLOUR, data, png};
use espalier_data::{Dataset, Loader, Splits, Work, load_batch};
use espalier_job::{Damaged, Data, DataFormat};
use tempfile::tempdir;

/// Two classes of ten images each; image i is filled with 10 i.
fn write(folder: &Path) -> Data {
    for part in ["train", "validation"] {
        for number in 0..20_u8 {
            let class = folder.join(part).join(format!("c{}", number / 10));
            fs::create_dir_all(&class).unwrap();
            // The two sets differ in what else they hold.
            fs::write(
                class.join(format!("{part}-{number:02}.png")),
                png(10 * number),
            )
            .unwrap();
        }
    }
    Data {
        damaged: Damaged::Skip,
        damaged_most: 0.2,
        ..data(
            DataFormat::ImageFolder,
            &folder.join("train"),
            &folder.join("validation"),
        )
    }
}

fn image(folder: &Path, number: u8) -> std::path::PathBuf {
    folder.join(format!(
        "validation/c{}/validation-{number:02}.png",
        number / 10
    ))
}

/// Damage that the header and the end of the file do not show.
fn spoil(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let body = bytes.windows(4).position(|bytes| bytes == b"IDAT").unwrap() + 6;
    bytes[body] ^= 0xff;
    fs::write(path, bytes).unwrap();
}

/// The number of every image of a set, and its label.
fn numbers(set: &Dataset) -> Vec<(u8, i64)> {
    let all: Vec<u32> = (0..set.len() as u32).collect();
    let batch = load_batch(set, &all, None).unwrap();
    let images = batch.images.chunks(COLOUR.values());
    let numbers = images.map(|image| ((image[0] * 255.0).round() / 10.0) as u8);
    numbers.zip(batch.labels).collect()
}

#[test]
fn what_the_header_shows_is_left_out() {
    let folder = tempdir().unwrap();
    let section = write(folder.path());
    fs::write(image(folder.path(), 3), "no image").unwrap();
    fs::write(image(folder.path(), 12), "").unwrap();
    for loaders in [1, 3] {
        let set = Dataset::validation(&section, COLOUR, loaders).unwrap();
        let expected: Vec<(u8, i64)> = (0..20)
            .filter(|number| ![3, 12].contains(number))
            .map(|number| (number, i64::from(number / 10)))
            .collect();
        assert_eq!(numbers(&set), expected);
    }
    let refusing = Data {
        damaged: Damaged::Refuse,
        ..section
    };
    let error = Dataset::validation(&refusing, COLOUR, 3)
        .unwrap_err()
        .to_string();
    let said = error.replace(&folder.path().display().to_string(), "DIR");
    assert_eq!(
        said,
        "2 images are damaged (data.damaged = \"skip\" leaves them out); DIR/validation/c0/validation-03.png: not a JPEG or PNG image; DIR/validation/c1/validation-12.png: not a JPEG or PNG image"
    );
}

#[test]
fn what_only_decoding_shows_is_replaced_by_the_next() {
    let folder = tempdir().unwrap();
    let section = write(folder.path());
    for number in [4, 5, 19] {
        spoil(&image(folder.path(), number));
    }
    for loaders in [1, 4] {
        let set = Dataset::validation(&section, COLOUR, loaders).unwrap();
        let numbers = numbers(&set);
        assert_eq!(set.len(), 20);
        // With the label of the image that is shown; the last one's next is the first.
        assert_eq!(numbers[3..7], [(3, 0), (6, 0), (6, 0), (6, 0)]);
        assert_eq!(numbers[19], (0, 0));
    }
}

#[test]
fn too_many_fail_the_job() {
    let folder = tempdir().unwrap();
    let section = write(folder.path());
    let said = |section: &Data| {
        let set = Dataset::validation(section, COLOUR, 1);
        let all: Vec<u32> = (0..20).collect();
        let loaded = set.and_then(|set| load_batch(&set, &all, None));
        let error = loaded.map(|_| ()).unwrap_err().to_string();
        error.replace(&folder.path().display().to_string(), "DIR")
    };
    for number in 0..5 {
        spoil(&image(folder.path(), number));
    }
    let expected = "data.damaged_most: 5 of the 20 images of DIR/validation are damaged (DIR/validation/c0/validation-00.png, DIR/validation/c0/validation-01.png, DIR/validation/c0/validation-02.png, ...), more than the share 0.2 that may be skipped: mend them or raise it";
    assert_eq!(said(&section), expected);
    for number in 0..5 {
        fs::write(image(folder.path(), number), "").unwrap();
    }
    assert_eq!(said(&section), expected);
    let all = Data {
        damaged_most: 1.0,
        ..section
    };
    for number in 0..20 {
        spoil_or_leave(&image(folder.path(), number));
    }
    assert_eq!(said(&all), "data.damaged: all 15 images are damaged");
}

fn spoil_or_leave(path: &Path) {
    if fs::metadata(path).unwrap().len() > 0 {
        spoil(path);
    }
}

/// Every worker makes the same of a damaged image: a loader of some micro-batches gives what one of all
/// gives.
#[test]
fn workers_agree_on_what_is_skipped() {
    let folder = tempdir().unwrap();
    let section = write(folder.path());
    for number in [1, 2, 11] {
        let name = format!("train/c{}/train-{number:02}.png", number / 10);
        spoil(&folder.path().join(name));
    }
    let work: Vec<Work> = (1..=6)
        .flat_map(|step| (0..2).map(move |micro_batch| Work { step, micro_batch }))
        .collect();
    let loaded = |work: Vec<Work>, loaders| -> Vec<_> {
        let train = Splits::open(&section, COLOUR, loaders).unwrap().train;
        let feed = crate::loader::feed(train, 6);
        let loader = Loader::start(feed, work).unwrap();
        loader.collect::<Result<_, _>>().unwrap()
    };
    let all = loaded(work.clone(), 3);
    let splits = Splits::open(&section, COLOUR, 1).unwrap();
    assert!(splits.damaged().is_empty(), "{:?}", splits.damaged());
    for worker in 0..2 {
        let own = |work: &Work| work.micro_batch == worker;
        let theirs = loaded(work.iter().copied().filter(own).collect(), 1);
        let expected: Vec<_> = all
            .iter()
            .filter(|loaded| own(&loaded.work))
            .cloned()
            .collect();
        assert_eq!(theirs, expected);
    }
}
