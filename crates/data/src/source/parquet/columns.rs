//! Which columns hold the images and the labels, and what the classes are called.

use std::path::Path;

use ::parquet::basic::Type;
use ::parquet::file::metadata::FileMetaData;
use ::parquet::schema::types::ColumnDescriptor;

use crate::DataError;

/// Names of the column of labels, the first that is there counting.
const LABELS: [&str; 3] = ["label", "labels", "fine_label"];
/// Likewise of the images; a struct of `bytes` and `path`, or the bytes themselves.
const IMAGES: [&str; 2] = ["image", "img"];

/// Numbers of the columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Columns {
    pub(super) image: usize,
    pub(super) label: usize,
}

impl Columns {
    pub(super) fn find(path: &Path, file: &FileMetaData) -> Result<Self, DataError> {
        let bytes = IMAGES.map(|name| format!("{name}.bytes"));
        let images = bytes.iter().map(String::as_str).chain(IMAGES);
        Ok(Self {
            image: find(
                path,
                file,
                images,
                "image (bytes, or a struct of bytes and path)",
                |column| column.physical_type() == Type::BYTE_ARRAY,
            )?,
            label: find(
                path,
                file,
                LABELS.into_iter(),
                "label (whole numbers)",
                |column| matches!(column.physical_type(), Type::INT32 | Type::INT64),
            )?,
        })
    }
}

/// The first column of one of `names`, if it is of the right type and has one value per row.
fn find<'a>(
    path: &Path,
    file: &FileMetaData,
    mut names: impl Iterator<Item = &'a str>,
    wanted: &str,
    right: impl Fn(&ColumnDescriptor) -> bool,
) -> Result<usize, DataError> {
    let columns = file.schema_descr().columns();
    let named = |name: &str| {
        columns
            .iter()
            .position(|column| column.path().string() == name)
    };
    let Some(index) = names.find_map(named) else {
        let known: Vec<String> = columns
            .iter()
            .map(|column| column.path().string())
            .collect();
        let reason = format!("no column {wanted}; its columns are {}", known.join(", "));
        return Err(DataError::content(path, reason));
    };
    let column = &columns[index];
    match right(column) && column.max_rep_level() == 0 {
        true => Ok(index),
        false => {
            let (name, kind) = (column.path().string(), column.physical_type());
            let list = if column.max_rep_level() > 0 {
                "a list of "
            } else {
                ""
            };
            let reason = format!("column {name} is {list}{kind}, where {wanted} is needed");
            Err(DataError::content(path, reason))
        }
    }
}

/// The names of the labels that Hugging Face keeps in the footer, if they are there.
pub(super) fn classes(file: &FileMetaData, label: usize) -> Option<Vec<String>> {
    let entries = file.key_value_metadata()?;
    let text = entries.iter().find(|entry| entry.key == "huggingface")?;
    let value: serde_json::Value = serde_json::from_str(text.value.as_deref()?).ok()?;
    let name = file.schema_descr().column(label).path().string();
    let names = value["info"]["features"][name]["names"].as_array()?;
    names
        .iter()
        .map(|name| name.as_str().map(str::to_owned))
        .collect()
}
