//! Parquet files as Hugging Face writes them: what is in them, and every way they can be wrong.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use crate::written::{COLOUR, data, png};
use espalier_data::{DataError, Dataset, Splits, load_batch};
use espalier_job::{Data, DataFormat};
use parquet::basic::{Compression, ZstdLevel};
use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use tempfile::tempdir;

const SCHEMA: &str = "message schema {
    optional group image { optional binary bytes; optional binary path (UTF8); }
    optional int64 label;
}";

type Row = (Option<Vec<u8>>, Option<i64>);

struct Written<'a> {
    schema: &'a str,
    names: Option<&'a str>,
    compression: Compression,
    rows_per_group: usize,
}

const PLAIN: Written<'_> = Written {
    schema: SCHEMA,
    names: None,
    compression: Compression::SNAPPY,
    rows_per_group: 3,
};

impl Written<'_> {
    fn write(&self, path: &Path, rows: &[Row]) {
        let schema = Arc::new(parse_message_type(self.schema).unwrap());
        let names = self.names.map(|names| {
            let features = format!(
                "{{\"info\": {{\"features\": {{\"label\": {{\"names\": {names}, \"_type\": \"ClassLabel\"}}}}}}}}"
            );
            vec![KeyValue::new("huggingface".to_owned(), features)]
        });
        let properties = WriterProperties::builder()
            .set_compression(self.compression)
            .set_key_value_metadata(names)
            // Pages of one image or two.
            .set_data_page_size_limit(100)
            .set_write_batch_size(1)
            .build();
        let file = fs::File::create(path).unwrap();
        let mut writer = SerializedFileWriter::new(file, schema, Arc::new(properties)).unwrap();
        for rows in rows.chunks(self.rows_per_group) {
            let mut group = writer.next_row_group().unwrap();
            let mut number = 0;
            while let Some(mut column) = group.next_column().unwrap() {
                if number < 2 {
                    // The path is null, as of images that were never in a file.
                    let given = |row: &Row| row.0.clone().filter(|_| number == 0);
                    let levels: Vec<i16> = rows
                        .iter()
                        .map(|row| if given(row).is_some() { 2 } else { 1 })
                        .collect();
                    let values: Vec<ByteArray> =
                        rows.iter().filter_map(given).map(ByteArray::from).collect();
                    let column = column.typed::<ByteArrayType>();
                    column.write_batch(&values, Some(&levels), None).unwrap();
                } else {
                    let levels: Vec<i16> = rows.iter().map(|row| row.1.is_some().into()).collect();
                    let values: Vec<i64> = rows.iter().filter_map(|row| row.1).collect();
                    let column = column.typed::<Int64Type>();
                    column.write_batch(&values, Some(&levels), None).unwrap();
                }
                column.close().unwrap();
                number += 1;
            }
            group.close().unwrap();
        }
        writer.close().unwrap();
    }
}

/// Image i of the numbers is filled with 10 i and has label i % 2.
fn rows(numbers: std::ops::Range<u8>) -> Vec<Row> {
    numbers
        .map(|number| (Some(png(10 * number)), Some(i64::from(number % 2))))
        .collect()
}

/// Two training files and one for validation.
fn write(folder: &Path) {
    PLAIN.write(&folder.join("train-00000-of-00002.parquet"), &rows(0..5));
    let zstd = Written {
        compression: Compression::ZSTD(ZstdLevel::default()),
        ..PLAIN
    };
    zstd.write(&folder.join("train-00001-of-00002.parquet"), &rows(5..8));
    PLAIN.write(&folder.join("validation.parquet"), &rows(8..10));
}

fn section(folder: &Path) -> Data {
    let validation = folder.join("validation.parquet");
    data(
        DataFormat::Parquet,
        &folder.join("train-*.parquet"),
        &validation,
    )
}

fn said(folder: &Path, opened: Result<Splits, DataError>) -> String {
    let error = opened.map(|_| ()).unwrap_err().to_string();
    error.replace(&folder.display().to_string(), "DIR")
}

#[test]
fn rows_are_read_at_their_places() {
    let folder = tempdir().unwrap();
    write(folder.path());
    let splits = Splits::open(&section(folder.path()), COLOUR, 2).unwrap();
    let mut seen = Vec::new();
    for set in [&splits.train, &splits.calibration] {
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

#[test]
fn classes_are_those_of_the_footer() {
    let folder = tempdir().unwrap();
    let named = |name: &str, names| {
        let named = Written {
            names: Some(names),
            ..PLAIN
        };
        let numbers = if name.starts_with('t') { 0..4 } else { 4..6 };
        named.write(&folder.path().join(name), &rows(numbers));
    };
    let open = || Splits::open(&section(folder.path()), COLOUR, 2);
    named("train-0.parquet", "[\"cat\", \"dog\"]");
    named("validation.parquet", "[\"cat\", \"dog\"]");
    open().unwrap();
    named("validation.parquet", "[\"dog\", \"cat\"]");
    assert_eq!(
        said(folder.path(), open()),
        "DIR/validation.parquet: label 0 is dog here and cat in DIR/train-*.parquet"
    );
    named("validation.parquet", "[\"cat\", \"emu\"]");
    assert_eq!(
        said(folder.path(), open()),
        "DIR/validation.parquet: no class dog, which DIR/train-*.parquet has"
    );
    named("train-1.parquet", "[\"a\", \"b\"]");
    assert_eq!(
        said(folder.path(), open()),
        "DIR/train-1.parquet: its classes are not those of DIR/train-0.parquet"
    );
    named("train-1.parquet", "[\"cat\", \"dog\"]");
    for name in ["train-0.parquet", "train-1.parquet", "validation.parquet"] {
        named(name, "[\"cat\", \"dog\", \"emu\"]");
    }
    assert_eq!(
        said(folder.path(), open()),
        "model.classes: 2 is less than the 3 classes of DIR/train-*.parquet"
    );
}

#[test]
fn damaged_rows() {
    let image = png(0);
    let cases: [(Row, &str); 5] = [
        (
            (Some(image.clone()), Some(2)),
            "DIR/train-0.parquet!4: label 2, model.classes is 2",
        ),
        (
            (Some(image.clone()), Some(-1)),
            "DIR/train-0.parquet!4: label -1, model.classes is 2",
        ),
        (
            (Some(image), None),
            "DIR/train-0.parquet!4: no label: it is null",
        ),
        (
            (None, Some(1)),
            "DIR/train-0.parquet!4: no image: its bytes are null; write the set with the images in it",
        ),
        (
            (Some(b"text".to_vec()), Some(1)),
            "DIR/train-0.parquet!4: not a JPEG or PNG image",
        ),
    ];
    for (row, message) in cases {
        let folder = tempdir().unwrap();
        let mut all = rows(0..6);
        all[4] = row;
        PLAIN.write(&folder.path().join("train-0.parquet"), &all);
        PLAIN.write(&folder.path().join("validation.parquet"), &rows(8..10));
        let opened = Splits::open(&section(folder.path()), COLOUR, 2);
        assert_eq!(said(folder.path(), opened), message);
    }
}

#[test]
fn columns_that_are_others() {
    let cases = [
        (
            SCHEMA.replace("label", "target"),
            "no column label (whole numbers); its columns are image.bytes, image.path, target",
        ),
        (
            SCHEMA.replace("image", "photo"),
            "no column image (bytes, or a struct of bytes and path); its columns are photo.bytes, photo.path, label",
        ),
    ];
    for (schema, message) in cases {
        let folder = tempdir().unwrap();
        write(folder.path());
        let other = Written {
            schema: &schema,
            ..PLAIN
        };
        other.write(&folder.path().join("train-2.parquet"), &rows(0..3));
        let opened = Splits::open(&section(folder.path()), COLOUR, 2);
        let expected = format!("DIR/train-2.parquet: {message}");
        assert_eq!(said(folder.path(), opened), expected);
    }
    let folder = tempdir().unwrap();
    write(folder.path());
    let schema = Arc::new(parse_message_type("message schema { required group image { required binary bytes; } required double label; }").unwrap());
    let file = fs::File::create(folder.path().join("train-2.parquet")).unwrap();
    SerializedFileWriter::new(file, schema, Arc::default())
        .unwrap()
        .close()
        .unwrap();
    assert_eq!(
        said(
            folder.path(),
            Splits::open(&section(folder.path()), COLOUR, 2)
        ),
        "DIR/train-2.parquet: column label is DOUBLE, where label (whole numbers) is needed"
    );
}

/// Whatever byte is wrong and wherever a file ends: an error that names the file, or the images as they
/// were; never a panic.
#[test]
fn no_damage_is_too_strange() {
    let folder = tempdir().unwrap();
    write(folder.path());
    let path = folder.path().join("validation.parquet");
    let whole = fs::read(&path).unwrap();
    let mut refused = 0;
    for at in 0..whole.len() {
        for cut in [false, true] {
            let mut bytes = whole.clone();
            match cut {
                true => bytes.truncate(at),
                false => bytes[at] ^= 0x41,
            }
            fs::write(&path, bytes).unwrap();
            let set = Dataset::validation(&section(folder.path()), COLOUR, 1);
            let loaded = set.and_then(|set| {
                let all: Vec<u32> = (0..set.len() as u32).collect();
                load_batch(&set, &all, None)
            });
            match loaded {
                Ok(_) => assert!(!cut, "{at} of {} bytes are enough", whole.len()),
                Err(error) => {
                    refused += 1;
                    let text = error.to_string();
                    assert!(text.contains("validation.parquet"), "{text}");
                }
            }
        }
    }
    assert!(refused > whole.len(), "{refused} of {}", 2 * whole.len());
}
