//! Parquet files as Hugging Face writes them: a column of encoded images and one of labels, in row
//! groups, in any number of files.
//!
//! Labels are read when the set is opened. Images are read page by page, the smallest part of a file that
//! can be decoded, and a bounded number of decoded pages is kept.

mod cache;
mod columns;
mod table;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::parquet::data_type::ByteArray;

use super::encoded::Store;
use super::pattern::files;
use super::runs::runs;
use super::{Digest, picture};
use crate::{DataError, Shape};
use cache::Cache;
use table::{Page, Table};

/// Bytes of decoded pages that are kept, of a set.
const CACHED: usize = 256 << 20;

#[derive(Debug)]
pub(super) struct Parquet {
    root: PathBuf,
    tables: Vec<Table>,
    /// By their first sample.
    pages: Vec<Located>,
    labels: Vec<u32>,
    classes: Option<Vec<String>>,
    digest: String,
    cache: Cache,
}

/// A page and where its samples are in the set.
#[derive(Debug)]
struct Located {
    first_sample: usize,
    table: usize,
    /// Row of the file that the page starts with.
    first_row: usize,
    page: Page,
}

/// The encoded images of a page; none where they are null.
type Images = Arc<Vec<Option<ByteArray>>>;

impl Parquet {
    /// Reads the footers and the labels of the files that `root` names.
    pub(super) fn open(root: &Path, shape: Shape, loaders: usize) -> Result<Self, DataError> {
        let paths = files(root, "parquet")?;
        let opened = runs(paths.len(), loaders, |run| {
            run.map(|index| Table::open(&paths[index], shape)).collect()
        })?;
        let (mut tables, mut pages, mut labels) = (Vec::new(), Vec::new(), Vec::new());
        let mut digest = Digest::default();
        let mut classes: Option<Vec<String>> = None;
        for (table, content) in opened {
            match (&classes, &table.classes) {
                (Some(known), Some(other)) if known != other => {
                    let reason = format!("its classes are not those of {}", paths[0].display());
                    return Err(DataError::content(&table.path, reason));
                }
                (None, Some(_)) => classes.clone_from(&table.classes),
                _ => {}
            }
            let mut row = 0;
            for page in content.pages {
                digest.text(&format!("{} rows", page.rows));
                pages.push(Located {
                    first_sample: labels.len() + row,
                    table: tables.len(),
                    first_row: row,
                    page,
                });
                row += page.rows;
            }
            digest.text(&content.image_bytes.to_string());
            for label in &content.labels {
                digest.bytes(&label.to_le_bytes());
            }
            labels.extend(content.labels);
            tables.push(table);
        }
        if labels.is_empty() {
            return Err(DataError::content(root, "no rows"));
        }
        if let Some(classes) = classes
            .as_ref()
            .filter(|classes| classes.len() > shape.classes)
        {
            let (found, wanted) = (classes.len(), shape.classes);
            let reason = format!(
                "{wanted} is less than the {found} classes of {}",
                root.display()
            );
            return Err(DataError::field("model.classes", reason));
        }
        Ok(Self {
            root: root.to_owned(),
            tables,
            pages,
            labels,
            classes,
            digest: digest.finish(),
            cache: Cache::new(CACHED),
        })
    }

    /// The number of the page that holds a sample.
    fn page(&self, index: usize) -> usize {
        self.pages
            .partition_point(|page| page.first_sample <= index)
            - 1
    }

    /// The encoded image.
    fn image(&self, index: usize) -> Result<ByteArray, DataError> {
        let number = self.page(index);
        let located = &self.pages[number];
        let images = match self.cache.get(number) {
            Some(images) => images,
            None => {
                let images = Arc::new(self.tables[located.table].images(located.page)?);
                self.cache.put(number, &images);
                images
            }
        };
        images[index - located.first_sample].clone().ok_or_else(|| {
            let reason = "no image: its bytes are null; write the set with the images in it";
            DataError::image(self.place(index), reason)
        })
    }
}

impl Store for Parquet {
    fn root(&self) -> &Path {
        &self.root
    }

    fn len(&self) -> usize {
        self.labels.len()
    }

    fn label(&self, index: usize) -> u32 {
        self.labels[index]
    }

    fn classes(&self) -> Option<&[String]> {
        self.classes.as_deref()
    }

    fn digest(&self) -> &str {
        &self.digest
    }

    fn place(&self, index: usize) -> PathBuf {
        let located = &self.pages[self.page(index)];
        let row = located.first_row + index - located.first_sample;
        self.tables[located.table].place(row)
    }

    fn check(&self, index: usize) -> Result<(), DataError> {
        let image = self.image(index)?;
        picture::check(&self.place(index), std::io::Cursor::new(image.data()))
    }

    fn bytes(&self, index: usize) -> Result<Vec<u8>, DataError> {
        Ok(self.image(index)?.data().to_vec())
    }
}
