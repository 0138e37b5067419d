//! One Parquet file.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::parquet::column::page::PageReader;
use ::parquet::column::reader::{ColumnReaderImpl, get_column_reader, get_typed_column_reader};
use ::parquet::data_type::{ByteArray, ByteArrayType, DataType, Int32Type, Int64Type};
use ::parquet::errors::ParquetError;
use ::parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use ::parquet::file::serialized_reader::SerializedPageReader;

use super::columns::{Columns, classes};
use crate::{DataError, Shape};

/// Largest column of images in a row group, decoded, in bytes: a page of it is held in memory.
const MAX_GROUP: i64 = 4 << 30;

/// A file that can be read at any row.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) path: PathBuf,
    /// By label.
    pub(super) classes: Option<Vec<String>>,
    metadata: ParquetMetaData,
    columns: Columns,
}

/// What is in a file, but for the images.
pub(super) struct Content {
    pub(super) labels: Vec<u32>,
    pub(super) pages: Vec<Page>,
    /// Of all encoded images as they are stored.
    pub(super) image_bytes: i64,
}

/// A page of images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Page {
    group: usize,
    /// First row, from the start of the row group.
    first: usize,
    pub(super) rows: usize,
}

impl Table {
    pub(super) fn open(path: &Path, shape: Shape) -> Result<(Self, Content), DataError> {
        let file = File::open(path).map_err(DataError::read(path))?;
        let metadata = ParquetMetaDataReader::new()
            .parse_and_finish(&file)
            .map_err(|error| {
                DataError::content(path, format!("not a whole Parquet file: {error}"))
            })?;
        let columns = Columns::find(path, metadata.file_metadata())?;
        let table = Self {
            path: path.to_owned(),
            classes: classes(metadata.file_metadata(), columns.label),
            metadata,
            columns,
        };
        table.within(file.metadata().map_err(DataError::read(path))?.len())?;
        let file = Arc::new(file);
        let mut content = Content {
            labels: Vec::new(),
            pages: Vec::new(),
            image_bytes: 0,
        };
        for group in 0..table.metadata.num_row_groups() {
            let first = content.labels.len();
            content
                .labels
                .extend(table.labels(&file, group, first, shape)?);
            content.pages.extend(table.pages(&file, group)?);
            let images = table.metadata.row_group(group).column(columns.image);
            content.image_bytes += images.compressed_size();
        }
        Ok((table, content))
    }

    /// The encoded images of a page; none where they are null.
    pub(super) fn images(&self, page: Page) -> Result<Vec<Option<ByteArray>>, DataError> {
        let file = Arc::new(File::open(&self.path).map_err(DataError::read(&self.path))?);
        let pages = self.page_reader(&file, page.group, self.columns.image)?;
        let mut reader = self.column_reader::<ByteArrayType>(pages, self.columns.image);
        let skipped = reader.skip_records(page.first);
        let skipped = skipped.map_err(|error| self.damaged(page.group, error))?;
        let images = self.read(&mut reader, self.columns.image, page.group, page.rows)?;
        match skipped == page.first && images.len() == page.rows {
            true => Ok(images),
            false => Err(self.short(page.group)),
        }
    }

    /// `file.parquet!row`, from 0.
    pub(super) fn place(&self, row: usize) -> PathBuf {
        PathBuf::from(format!("{}!{row}", self.path.display()))
    }

    /// Checks that the columns lie in a file of `size` bytes: the reader believes what a footer says.
    fn within(&self, size: u64) -> Result<(), DataError> {
        for (number, group) in self.metadata.row_groups().iter().enumerate() {
            for column in [self.columns.image, self.columns.label] {
                let chunk = group.column(column);
                let data = chunk.data_page_offset();
                let start = chunk.dictionary_page_offset().unwrap_or(data);
                let end = start.checked_add(chunk.compressed_size());
                let inside = start >= 0
                    && data >= start
                    && end.is_some_and(|end| end >= data && end as u64 <= size);
                if !inside {
                    let reason =
                        format!("row group {number} is damaged: it is not inside the file");
                    return Err(DataError::content(&self.path, reason));
                }
            }
        }
        Ok(())
    }

    /// The labels of a row group, whose first row is row `first` of the file.
    fn labels(
        &self,
        file: &Arc<File>,
        group: usize,
        first: usize,
        shape: Shape,
    ) -> Result<Vec<u32>, DataError> {
        let label = self.columns.label;
        let rows = self.rows(group)?;
        let pages = self.page_reader(file, group, label)?;
        let column = self.metadata.file_metadata().schema_descr().column(label);
        let values: Vec<Option<i64>> = match column.physical_type() {
            ::parquet::basic::Type::INT32 => {
                let mut reader = self.column_reader::<Int32Type>(pages, label);
                let values = self.read(&mut reader, label, group, rows)?;
                values
                    .into_iter()
                    .map(|value| value.map(i64::from))
                    .collect()
            }
            _ => {
                let mut reader = self.column_reader::<Int64Type>(pages, label);
                self.read(&mut reader, label, group, rows)?
            }
        };
        if values.len() != rows {
            return Err(self.short(group));
        }
        let checked = |(row, value): (usize, Option<i64>)| {
            let wrong = |reason: String| DataError::content(self.place(first + row), reason);
            let value = value.ok_or_else(|| wrong("no label: it is null".to_owned()))?;
            match u32::try_from(value)
                .ok()
                .filter(|&label| (label as usize) < shape.classes)
            {
                Some(label) => Ok(label),
                None => Err(wrong(format!(
                    "label {value}, model.classes is {}",
                    shape.classes
                ))),
            }
        };
        values.into_iter().enumerate().map(checked).collect()
    }

    /// The pages of images of a row group, by their headers.
    fn pages(&self, file: &Arc<File>, group: usize) -> Result<Vec<Page>, DataError> {
        let images = self.metadata.row_group(group).column(self.columns.image);
        if images.uncompressed_size() > MAX_GROUP {
            let reason = format!(
                "row group {group} has {} bytes of images, more than the limit, {MAX_GROUP}: write it with smaller row groups",
                images.uncompressed_size()
            );
            return Err(DataError::content(&self.path, reason));
        }
        let damaged = |error| self.damaged(group, error);
        let mut reader = self.page_reader(file, group, self.columns.image)?;
        let (mut pages, mut first) = (Vec::new(), 0);
        while let Some(page) = reader.peek_next_page().map_err(damaged)? {
            if !page.is_dict {
                // Without repetition, a level is a row.
                let rows = page.num_rows.or(page.num_levels).unwrap_or(0);
                if rows > 0 {
                    pages.push(Page { group, first, rows });
                }
                first += rows;
            }
            reader.skip_next_page().map_err(damaged)?;
        }
        match first == self.rows(group)? {
            true => Ok(pages),
            false => Err(self.short(group)),
        }
    }

    fn rows(&self, group: usize) -> Result<usize, DataError> {
        let rows = self.metadata.row_group(group).num_rows();
        usize::try_from(rows).map_err(|_| {
            DataError::content(&self.path, format!("row group {group} has {rows} rows"))
        })
    }

    fn page_reader(
        &self,
        file: &Arc<File>,
        group: usize,
        column: usize,
    ) -> Result<SerializedPageReader<File>, DataError> {
        let chunk = self.metadata.row_group(group).column(column);
        SerializedPageReader::new(Arc::clone(file), chunk, self.rows(group)?, None)
            .map_err(|error| self.damaged(group, error))
    }

    fn column_reader<T: DataType>(
        &self,
        pages: SerializedPageReader<File>,
        column: usize,
    ) -> ColumnReaderImpl<T> {
        let column = self.metadata.file_metadata().schema_descr().column(column);
        get_typed_column_reader(get_column_reader(column, Box::new(pages)))
    }

    /// The next rows of a column, at most `rows`.
    fn read<T: DataType>(
        &self,
        reader: &mut ColumnReaderImpl<T>,
        column: usize,
        group: usize,
        rows: usize,
    ) -> Result<Vec<Option<T::T>>, DataError> {
        let descriptor = self.metadata.file_metadata().schema_descr().column(column);
        let there = descriptor.max_def_level();
        let (mut levels, mut values) = (Vec::new(), Vec::new());
        let levels_wanted = (there > 0).then_some(&mut levels);
        let (read, ..) = reader
            .read_records(rows, levels_wanted, None, &mut values)
            .map_err(|error| self.damaged(group, error))?;
        let mut values = values.into_iter();
        Ok(match there {
            0 => values.map(Some).collect(),
            _ => levels
                .into_iter()
                .take(read)
                .map(|level| (level == there).then(|| values.next()).flatten())
                .collect(),
        })
    }

    fn damaged(&self, group: usize, error: ParquetError) -> DataError {
        DataError::content(&self.path, format!("row group {group} is damaged: {error}"))
    }

    fn short(&self, group: usize) -> DataError {
        let reason = format!("row group {group} is damaged: it has not as many rows as it claims");
        DataError::content(&self.path, reason)
    }
}
