//! The IDX files of MNIST: a magic number, big-endian dimensions, bytes.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;

use super::{Digest, Memory, Role, expect, labels_within};
use crate::{DataError, Shape};

/// Unsigned bytes in three dimensions: image, row, column.
const IMAGES: u32 = 0x0803;
/// Unsigned bytes in one dimension.
const LABELS: u32 = 0x0801;
/// No more than this is taken into memory, whatever a header claims.
const MAX_BYTES: u64 = 16 << 30;

pub(super) fn open(folder: &Path, role: Role, shape: Shape) -> Result<Memory, DataError> {
    let prefix = match role {
        Role::Train => "train",
        Role::Validation => "t10k",
    };
    expect("model.channels", "idx images", 1, shape.channels)?;
    let mut digest = Digest::default();
    let mut images = Idx::open(folder, &format!("{prefix}-images-idx3-ubyte"), IMAGES)?;
    let [count, rows, columns] = images.header(&mut digest)?;
    for (found, side) in [(rows, "rows"), (columns, "columns")] {
        if found as usize != shape.image_size {
            let size = shape.image_size;
            let reason = format!(
                "{size} does not fit {}: its images have {found} {side}",
                images.path.display()
            );
            return Err(DataError::field("model.image_size", reason));
        }
    }
    let pixels = images.body(u64::from(count) * shape.plane() as u64, &mut digest)?;
    let mut labels = Idx::open(folder, &format!("{prefix}-labels-idx1-ubyte"), LABELS)?;
    let [label_count] = labels.header(&mut digest)?;
    if label_count != count {
        let reason = format!("{label_count} labels for {count} images");
        return Err(DataError::content(labels.path, reason));
    }
    if count == 0 {
        return Err(DataError::content(images.path, "no images"));
    }
    let path = labels.path.clone();
    let labels = labels.body(u64::from(count), &mut digest)?;
    labels_within(&path, &labels, shape.classes)?;
    Ok(Memory {
        pixels,
        labels,
        digest: digest.finish(),
    })
}

struct Idx {
    path: PathBuf,
    magic: u32,
    reader: Box<dyn Read>,
}

impl Idx {
    /// Opens `name` in `folder`, plain or with `.gz`.
    fn open(folder: &Path, name: &str, magic: u32) -> Result<Self, DataError> {
        let plain = folder.join(name);
        let zipped = folder.join(format!("{name}.gz"));
        let path = match [&plain, &zipped].into_iter().find(|path| path.exists()) {
            Some(path) => path.clone(),
            None => {
                let reason = format!("holds neither {name} nor {name}.gz");
                return Err(DataError::content(folder, reason));
            }
        };
        let file = BufReader::new(File::open(&path).map_err(DataError::read(&path))?);
        let reader: Box<dyn Read> = if path == zipped {
            Box::new(MultiGzDecoder::new(file))
        } else {
            Box::new(file)
        };
        Ok(Self {
            path,
            magic,
            reader,
        })
    }

    /// The dimensions.
    fn header<const N: usize>(&mut self, digest: &mut Digest) -> Result<[u32; N], DataError> {
        let magic = self.number(digest)?;
        if magic != self.magic {
            let expected = self.magic;
            let reason = format!(
                "not an idx file of this kind: it starts with {magic:#010x}, not {expected:#010x}"
            );
            return Err(DataError::content(&self.path, reason));
        }
        let mut dimensions = [0; N];
        for dimension in &mut dimensions {
            *dimension = self.number(digest)?;
        }
        Ok(dimensions)
    }

    fn number(&mut self, digest: &mut Digest) -> Result<u32, DataError> {
        let mut bytes = [0; 4];
        let read = self.reader.read_exact(&mut bytes);
        read.map_err(|error| self.damaged(error, "its header is cut off"))?;
        digest.bytes(&bytes);
        Ok(u32::from_be_bytes(bytes))
    }

    /// The `size` bytes after the header, which must be the last.
    fn body(&mut self, size: u64, digest: &mut Digest) -> Result<Vec<u8>, DataError> {
        if size > MAX_BYTES {
            let reason =
                format!("its header claims {size} bytes, more than the limit, {MAX_BYTES}");
            return Err(DataError::content(&self.path, reason));
        }
        let mut bytes = Vec::new();
        let read = self.reader.by_ref().take(size + 1).read_to_end(&mut bytes);
        let found = bytes.len() as u64;
        let cut_off = format!("cut off: {found} of {size} bytes after the header are there");
        read.map_err(|error| self.damaged(error, &cut_off))?;
        if found < size {
            return Err(DataError::content(&self.path, cut_off));
        }
        if found > size {
            let reason = format!("more than the {size} bytes its header claims");
            return Err(DataError::content(&self.path, reason));
        }
        digest.bytes(&bytes);
        Ok(bytes)
    }

    fn damaged(&self, error: io::Error, cut_off: &str) -> DataError {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => DataError::content(&self.path, cut_off),
            io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => {
                DataError::content(&self.path, format!("damaged: {error}"))
            }
            _ => DataError::read(&self.path)(error),
        }
    }
}
