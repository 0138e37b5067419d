//! WebDataset shards: what is in them, and every way they can be wrong.

use std::fs;
use std::path::Path;

use crate::written::{COLOUR, data, png, shard, write_shards};
use espalier_data::{Dataset, Splits, load_batch};
use espalier_job::{Data, DataFormat};
use tempfile::tempdir;

fn section(folder: &Path, train: &str) -> Data {
    let validation = folder.join("validation.tar");
    data(DataFormat::WebDataset, &folder.join(train), &validation)
}

#[test]
fn samples_are_read_at_their_places() {
    let folder = tempdir().unwrap();
    write_shards(folder.path());
    for train in [
        "train-{000..001}.tar",
        "train-*.tar",
        "{train-000,train-001}.tar",
    ] {
        let splits = Splits::open(&section(folder.path(), train), COLOUR, 2).unwrap();
        let mut seen = Vec::new();
        for set in [&splits.train, &splits.calibration] {
            // Backwards, so that nothing can depend on the order of reading.
            let samples: Vec<u32> = (0..set.len() as u32).rev().collect();
            let batch = load_batch(set, &samples, None).unwrap();
            for (image, label) in batch.images.chunks(COLOUR.values()).zip(batch.labels) {
                let number = (image[0] * 255.0).round() as i64 / 10;
                assert_eq!(number % 2, label);
                seen.push(number);
            }
        }
        seen.sort_unstable();
        assert_eq!(seen, (0..8).collect::<Vec<_>>());
    }
}

#[test]
fn a_digest_is_of_the_members_and_not_of_the_shards() {
    let folder = tempdir().unwrap();
    write_shards(folder.path());
    let validation = folder.path().join("validation.tar");
    fs::copy(&validation, folder.path().join("copy.tar")).unwrap();
    let error = Splits::open(&section(folder.path(), "copy.tar"), COLOUR, 2).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("data.validation: these are the files"),
        "{error}"
    );
}

/// Names that lead out of a folder lead nowhere: a member is read from its shard.
#[test]
fn names_are_only_names() {
    let folder = tempdir().unwrap();
    write_shards(folder.path());
    let image = png(50);
    let names = [
        "../../etc/passwd",
        "/etc/shadow",
        "a/../b",
        &"long/".repeat(60),
    ];
    let members: Vec<(String, Vec<u8>)> = names
        .iter()
        .flat_map(|name| {
            let label = b"1".to_vec();
            [
                (format!("{name}x.png"), image.clone()),
                (format!("{name}x.cls"), label),
            ]
        })
        .collect();
    let path = folder.path().join("odd.tar");
    shard(&path, &members);
    let mut section = section(folder.path(), "train-*.tar");
    section.validation = path.to_string_lossy().into_owned();
    let set = Dataset::validation(&section, COLOUR, 1).unwrap();
    assert_eq!(set.len(), 4);
    let mut values = [0.0; 12];
    for sample in 0..4 {
        assert_eq!(set.load(sample, None, &mut values).unwrap(), 1);
        assert!((values[0] - 50.0 / 255.0).abs() < 1e-6);
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 4);
}

#[test]
fn damaged_shards() {
    type Members = Vec<(String, Vec<u8>)>;
    let one = |members: &[(&str, &[u8])]| -> Members {
        members
            .iter()
            .map(|(name, bytes)| ((*name).to_owned(), bytes.to_vec()))
            .collect()
    };
    let image = png(10);
    let cases: [(Members, &str); 12] = [
        (
            one(&[("a.png", &image)]),
            "DIR/train.tar!a.png: no label: a.cls, or a.json with a number \"label\", is needed right after it",
        ),
        (
            one(&[("a.cls", b"1"), ("b.png", &image), ("b.cls", b"1")]),
            "DIR/train.tar!a.cls: no image: a.jpg, .jpeg or .png is needed right beside it",
        ),
        (
            one(&[("a.png", &image), ("a.cls", b"2")]),
            "DIR/train.tar!a.cls: label 2, model.classes is 2",
        ),
        (
            one(&[("a.png", &image), ("a.cls", b"-1")]),
            "DIR/train.tar!a.cls: \"-1\" is not a label: a number from 0 on is needed",
        ),
        (
            one(&[("a.png", &image), ("a.cls", b"cat")]),
            "DIR/train.tar!a.cls: \"cat\" is not a label: a number from 0 on is needed",
        ),
        (
            one(&[("a.png", &image), ("a.json", b"{\"label\": \"cat\"}")]),
            "DIR/train.tar!a.json: \"cat\" is not a label: a number from 0 on is needed",
        ),
        (
            one(&[("a.png", &image), ("a.json", b"{\"label\"")]),
            "DIR/train.tar!a.json: not JSON: EOF while parsing an object at line 1 column 8",
        ),
        (
            one(&[("a.png", &image), ("a.json", b"{\"width\": 3}")]),
            "DIR/train.tar!a.png: no label: a.cls, or a.json with a number \"label\", is needed right after it",
        ),
        (
            one(&[("a.png", &image), ("a.jpg", &image), ("a.cls", b"1")]),
            "DIR/train.tar!a.jpg: a second one of the same sample",
        ),
        (
            one(&[("a.png", &image), ("b.png", &image), ("a.cls", b"1")]),
            "DIR/train.tar!a.png: no label: a.cls, or a.json with a number \"label\", is needed right after it",
        ),
        (
            one(&[("a.png", b"no image"), ("a.cls", b"1")]),
            "DIR/train.tar!a.png: not a JPEG or PNG image",
        ),
        (
            one(&[("README.txt", b"hello")]),
            "DIR/train.tar: no samples",
        ),
    ];
    for (members, message) in cases {
        let folder = tempdir().unwrap();
        write_shards(folder.path());
        shard(&folder.path().join("train.tar"), &members);
        let error = Splits::open(&section(folder.path(), "train.tar"), COLOUR, 2).unwrap_err();
        let dir = folder.path().display().to_string();
        assert_eq!(error.to_string().replace(&dir, "DIR"), message);
    }
}

#[test]
fn shards_that_are_not_whole() {
    type Damage = fn(&mut Vec<u8>);
    let cases: [(Damage, &str); 8] = [
        // In the end of the archive, in an image, in a header, and to nothing.
        (
            |bytes| bytes.truncate(4096),
            "DIR/train-000.tar: cut off: the end of the archive is missing",
        ),
        (
            |bytes| bytes.truncate(530),
            "DIR/train-000.tar!0.png: cut off: LENGTH bytes from 512 on are beyond the end of the shard",
        ),
        (
            |bytes| bytes.truncate(1200),
            "DIR/train-000.tar: not a whole tar file: failed to read entire block",
        ),
        (
            Vec::clear,
            "DIR/train-000.tar: cut off: the end of the archive is missing",
        ),
        (
            |bytes| bytes[0] ^= 1,
            "DIR/train-000.tar: not a whole tar file: archive header checksum mismatch",
        ),
        (
            |bytes| bytes[124] = b'z',
            "DIR/train-000.tar: not a whole tar file: ",
        ),
        (
            |bytes| bytes.extend([7; 512]),
            "DIR/train-000.tar: it goes on after its end, at 4096 of 5632 bytes: two archives in one file?",
        ),
        (
            |bytes| *bytes = vec![b'x'; 2048],
            "DIR/train-000.tar: not a whole tar file: ",
        ),
    ];
    let length = png(0).len().to_string();
    for (damage, message) in cases {
        let folder = tempdir().unwrap();
        write_shards(folder.path());
        let path = folder.path().join("train-000.tar");
        let mut bytes = fs::read(&path).unwrap();
        damage(&mut bytes);
        fs::write(&path, bytes).unwrap();
        let error = Splits::open(&section(folder.path(), "train-*.tar"), COLOUR, 2).unwrap_err();
        let dir = folder.path().display().to_string();
        let said = error.to_string().replace(&dir, "DIR");
        assert!(
            said.starts_with(&message.replace("LENGTH", &length)),
            "{said}\n{message}"
        );
    }
}

#[test]
fn links_and_missing_shards() {
    let folder = tempdir().unwrap();
    write_shards(folder.path());
    let mut builder = tar::Builder::new(fs::File::create(folder.path().join("link.tar")).unwrap());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    builder
        .append_link(&mut header, "a.png", "/etc/passwd")
        .unwrap();
    builder.finish().unwrap();
    let said = |train: &str| {
        let error = Splits::open(&section(folder.path(), train), COLOUR, 2).unwrap_err();
        error
            .to_string()
            .replace(&folder.path().display().to_string(), "DIR")
    };
    assert_eq!(
        said("link.tar"),
        "DIR/link.tar!a.png: a link or special file: images and labels must be files in the shard itself"
    );
    assert_eq!(
        said("train-{000..002}.tar"),
        "cannot read DIR/train-002.tar: No such file or directory (os error 2)"
    );
    assert_eq!(said("none-*.tar"), "DIR/none-*.tar: no file matches");
    assert_eq!(
        said("train-{2..1}.tar"),
        "DIR/train-{2..1}.tar: {2..1}: 1 to 100000 numbers, counted up, are needed"
    );
}
