//! Every way data can be wrong and what is said of it.

use std::fs;
use std::path::Path;

use crate::written::{TINY, data, gzip, idx, write_idx, write_images};
use espalier_data::{DataError, Dataset, Shape, Splits};
use espalier_job::DataFormat;
use tempfile::tempdir;

/// What opening says, the folder's path left out.
fn said(folder: &Path, opened: Result<Splits, DataError>) -> String {
    let error = opened.map(|_| ()).unwrap_err();
    error
        .to_string()
        .replace(&format!("{}", folder.display()), "DIR")
}

/// Compares all that was said with all that should be.
fn as_expected(all: &[(String, &str)]) {
    let (said, expected): (Vec<&str>, Vec<&str>) = all
        .iter()
        .map(|(said, expected)| (said.as_str(), *expected))
        .unzip();
    assert_eq!(said, expected);
}

#[test]
fn damaged_idx() {
    type Damage = fn(&Path);
    let cases: [(Damage, &str); 13] = [
        (
            |dir| fs::remove_file(dir.join("train-labels-idx1-ubyte")).unwrap(),
            "DIR: holds neither train-labels-idx1-ubyte nor train-labels-idx1-ubyte.gz",
        ),
        (
            |dir| {
                fs::write(
                    dir.join("train-images-idx3-ubyte"),
                    idx(0x0801, &[8], &[0; 8]),
                )
                .unwrap()
            },
            "DIR/train-images-idx3-ubyte: not an idx file of this kind: it starts with 0x00000801, not 0x00000803",
        ),
        (
            |dir| fs::write(dir.join("train-images-idx3-ubyte"), [0, 0]).unwrap(),
            "DIR/train-images-idx3-ubyte: its header is cut off",
        ),
        (
            |dir| {
                fs::write(
                    dir.join("train-images-idx3-ubyte"),
                    idx(0x0803, &[8, 2, 2], &[0; 31]),
                )
                .unwrap()
            },
            "DIR/train-images-idx3-ubyte: cut off: 31 of 32 bytes after the header are there",
        ),
        (
            |dir| {
                fs::write(
                    dir.join("train-images-idx3-ubyte"),
                    idx(0x0803, &[8, 2, 2], &[0; 33]),
                )
                .unwrap()
            },
            "DIR/train-images-idx3-ubyte: more than the 32 bytes its header claims",
        ),
        (
            |dir| {
                fs::write(
                    dir.join("train-images-idx3-ubyte"),
                    idx(0x0803, &[u32::MAX, 2, 2], &[]),
                )
                .unwrap()
            },
            "DIR/train-images-idx3-ubyte: cut off: 0 of 17179869180 bytes after the header are there",
        ),
        (
            |dir| {
                fs::write(
                    dir.join("train-images-idx3-ubyte"),
                    idx(0x0803, &[8, 2, 3], &[0; 48]),
                )
                .unwrap()
            },
            "model.image_size: 2 does not fit DIR/train-images-idx3-ubyte: its images have 3 columns",
        ),
        (
            |dir| {
                fs::write(
                    dir.join("train-labels-idx1-ubyte"),
                    idx(0x0801, &[7], &[0; 7]),
                )
                .unwrap()
            },
            "DIR/train-labels-idx1-ubyte: 7 labels for 8 images",
        ),
        (
            |dir| {
                fs::write(
                    dir.join("train-labels-idx1-ubyte"),
                    idx(0x0801, &[8], &[0; 6]),
                )
                .unwrap()
            },
            "DIR/train-labels-idx1-ubyte: cut off: 6 of 8 bytes after the header are there",
        ),
        (
            |dir| {
                fs::write(
                    dir.join("train-labels-idx1-ubyte"),
                    idx(0x0801, &[8], &[0, 1, 0, 1, 2, 0, 1, 0]),
                )
                .unwrap()
            },
            "DIR/train-labels-idx1-ubyte: sample 4 has label 2, model.classes is 2",
        ),
        (
            |dir| {
                let path = dir.join("t10k-images-idx3-ubyte.gz");
                let bytes = gzip(&idx(0x0803, &[2, 2, 2], &[1, 2, 3, 4, 5, 6, 7, 8]));
                fs::write(path, &bytes[..bytes.len() - 8]).unwrap();
            },
            "DIR/t10k-images-idx3-ubyte.gz: cut off: 8 of 8 bytes after the header are there",
        ),
        (
            |dir| {
                fs::write(
                    dir.join("t10k-images-idx3-ubyte.gz"),
                    idx(0x0803, &[2, 2, 2], &[0; 8]),
                )
                .unwrap()
            },
            "DIR/t10k-images-idx3-ubyte.gz: damaged: invalid gzip header",
        ),
        (
            |dir| {
                for (name, bytes) in [
                    ("train-images-idx3-ubyte", idx(0x0803, &[0, 2, 2], &[])),
                    ("train-labels-idx1-ubyte", idx(0x0801, &[0], &[])),
                ] {
                    fs::write(dir.join(name), bytes).unwrap();
                }
            },
            "DIR/train-images-idx3-ubyte: no images",
        ),
    ];
    let mut all = Vec::new();
    for (damage, message) in cases {
        let folder = tempdir().unwrap();
        write_idx(folder.path());
        damage(folder.path());
        let section = data(DataFormat::Idx, folder.path(), folder.path());
        all.push((
            said(folder.path(), Splits::open(&section, TINY, 2)),
            message,
        ));
    }
    as_expected(&all);
}

#[test]
fn what_does_not_fit_the_model() {
    let folder = tempdir().unwrap();
    write_idx(folder.path());
    let section = data(DataFormat::Idx, folder.path(), folder.path());
    let open = |shape| said(folder.path(), Splits::open(&section, shape, 2));
    assert_eq!(
        open(Shape {
            channels: 3,
            ..TINY
        }),
        "model.channels: 3 does not fit idx images: 1 is needed"
    );
    assert_eq!(
        open(Shape {
            image_size: 4,
            ..TINY
        }),
        "model.image_size: 4 does not fit DIR/train-images-idx3-ubyte: its images have 2 rows"
    );
    let mut means = section.clone();
    means.mean = vec![0.1, 0.2];
    assert_eq!(
        said(folder.path(), Splits::open(&means, TINY, 2)),
        "data.mean: 2 values for 1 channels"
    );
}

#[test]
fn folders_that_are_none() {
    let folder = tempdir().unwrap();
    let section = |train: &Path| data(DataFormat::Idx, train, folder.path());
    let missing = folder.path().join("nowhere");
    assert_eq!(
        said(folder.path(), Splits::open(&section(&missing), TINY, 2)),
        "cannot read DIR/nowhere: No such file or directory (os error 2)"
    );
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    assert_eq!(
        said(folder.path(), Splits::open(&section(&file), TINY, 2)),
        "DIR/file: not a folder"
    );
}

#[test]
fn damaged_cifar() {
    let folder = tempdir().unwrap();
    let section = data(DataFormat::Cifar, folder.path(), folder.path());
    let shape = Shape {
        channels: 3,
        image_size: 32,
        classes: 10,
    };
    let open = |shape| said(folder.path(), Splits::open(&section, shape, 2));
    assert_eq!(
        open(Shape {
            image_size: 28,
            ..shape
        }),
        "model.image_size: 28 does not fit cifar images: 32 is needed"
    );
    assert_eq!(
        open(Shape {
            channels: 1,
            ..shape
        }),
        "model.channels: 1 does not fit cifar images: 3 is needed"
    );
    assert_eq!(
        open(shape),
        "DIR: holds neither data_batch_1.bin nor train.bin"
    );
    let batch = folder.path().join("data_batch_1.bin");
    fs::write(&batch, [0; 3072]).unwrap();
    assert_eq!(
        open(shape),
        "DIR/data_batch_1.bin: 3072 bytes are not a whole number of records of 3073"
    );
    fs::write(&batch, [10; 3073]).unwrap();
    assert_eq!(
        open(shape),
        "DIR/data_batch_1.bin: sample 0 has label 10, model.classes is 10"
    );
}

#[test]
fn damaged_image_folders() {
    type Damage = fn(&Path);
    let cases: [(Damage, &str); 14] = [
        (
            |train| {
                let path = train.join("cat/a.png");
                let mut bytes = fs::read(&path).unwrap();
                bytes[17] ^= 1;
                fs::write(&path, bytes).unwrap();
            },
            "DIR/train/cat/a.png: damaged image: Format error decoding Png: CRC error: expected 0x3cafe9a7 have 0xa70aa5c8 while decoding ChunkType { type: IHDR, critical: true, private: false, reserved: false, safecopy: false } chunk.",
        ),
        (
            |train| fs::write(train.join("cat/c.png"), "a text").unwrap(),
            "DIR/train/cat/c.png: not a JPEG or PNG image",
        ),
        (
            |train| fs::write(train.join("cat/c.png"), "").unwrap(),
            "DIR/train/cat/c.png: not a JPEG or PNG image",
        ),
        (
            |train| fs::write(train.join("cat/notes.txt"), "a text").unwrap(),
            "DIR/train/cat/notes.txt: not a JPEG or PNG image",
        ),
        (
            |train| cut(&train.join("dog/b.jpg"), 40),
            "DIR/train/dog/b.jpg: cut off: its end is missing",
        ),
        (
            |train| cut(&train.join("dog/b.jpg"), 1),
            "DIR/train/dog/b.jpg: cut off: its end is missing",
        ),
        (
            |train| fs::write(train.join("dog/b.jpg"), [0xff, 0xd8, 0xff]).unwrap(),
            "DIR/train/dog/b.jpg: cut off: its end is missing",
        ),
        (
            |train| cut(&train.join("cat/a.png"), 12),
            "DIR/train/cat/a.png: cut off: its end is missing",
        ),
        (
            |train| cut_to(&train.join("cat/a.png"), 20),
            "DIR/train/cat/a.png: cut off: its end is missing",
        ),
        (
            |train| fs::create_dir(train.join("cat/more")).unwrap(),
            "DIR/train/cat/more: a folder inside a class folder: put its images beside it",
        ),
        (
            |train| fs::create_dir(train.join("emu")).unwrap(),
            "model.classes: 2 is less than the 3 class folders of DIR/train",
        ),
        (
            |train| {
                fs::remove_dir_all(train.join("dog")).unwrap();
                fs::create_dir(train.join("dog")).unwrap();
            },
            "DIR/train/dog: no images of this class",
        ),
        (
            |train| fs::rename(train.join("dog"), train.join("dogs")).unwrap(),
            "DIR/validation: no class dogs, which DIR/train has",
        ),
        (
            |train| {
                fs::remove_dir_all(train).unwrap();
                fs::create_dir(train).unwrap();
            },
            "DIR/train: no class folders: one folder of images per class is needed",
        ),
    ];
    let shape = Shape {
        channels: 3,
        image_size: 2,
        classes: 2,
    };
    let mut all = Vec::new();
    for (damage, message) in cases {
        let folder = tempdir().unwrap();
        let (train, validation) = (
            folder.path().join("train"),
            folder.path().join("validation"),
        );
        write_images(&train);
        write_images(&validation);
        damage(&train);
        let section = data(DataFormat::ImageFolder, &train, &validation);
        all.push((
            said(folder.path(), Splits::open(&section, shape, 2)),
            message,
        ));
    }
    as_expected(&all);
}

#[test]
fn validation_is_not_the_training_data() {
    let folder = tempdir().unwrap();
    write_images(folder.path());
    let section = data(DataFormat::ImageFolder, folder.path(), folder.path());
    let shape = Shape {
        channels: 3,
        image_size: 2,
        classes: 2,
    };
    assert_eq!(
        said(folder.path(), Splits::open(&section, shape, 2)),
        "data.validation: these are the files of data.train: a model cannot be judged by what it was trained on"
    );
}

/// Takes the last `bytes` off a file.
fn cut(path: &Path, bytes: usize) {
    let length = fs::metadata(path).unwrap().len() as usize;
    cut_to(path, length - bytes);
}

fn cut_to(path: &Path, length: usize) {
    let whole = fs::read(path).unwrap();
    fs::write(path, &whole[..length]).unwrap();
}

#[test]
fn a_damaged_body_is_found_when_it_is_loaded() {
    let folder = tempdir().unwrap();
    write_images(folder.path());
    let path = folder.path().join("cat/a.png");
    let mut bytes = fs::read(&path).unwrap();
    let body = bytes.windows(4).position(|bytes| bytes == b"IDAT").unwrap() + 6;
    bytes[body] ^= 0xff;
    fs::write(&path, bytes).unwrap();
    let section = data(DataFormat::ImageFolder, folder.path(), folder.path());
    let shape = Shape {
        channels: 3,
        image_size: 2,
        classes: 2,
    };
    let set = Dataset::validation(&section, shape, 2).unwrap();
    let error = set.load(0, None, &mut [0.0; 12]).unwrap_err().to_string();
    let start = format!(
        "{}: damaged image: Format error decoding Png",
        path.display()
    );
    assert!(error.starts_with(&start), "{error}");
}
