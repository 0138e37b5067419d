//! The files images come from.

mod cifar;
mod complete;
mod digest;
mod encoded;
mod folder;
mod idx;
mod parquet;
mod pattern;
mod picture;
mod runs;
mod section;
mod shards;

use std::fmt;
use std::path::Path;

use espalier_job::{Data, DataFormat};

pub(crate) use digest::Digest;
use encoded::Encoded;
use folder::Folder;
use parquet::Parquet;
use shards::Shards;

use crate::picture::Picture;
use crate::{BadImage, DataError, Shape};

/// What the files are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Train,
    Validation,
}

/// Images and labels where they lie.
#[derive(Debug)]
pub(crate) enum Source {
    Memory(Memory),
    Encoded(Encoded),
}

/// All pixels in memory.
pub(crate) struct Memory {
    /// CHW, image after image.
    pixels: Vec<u8>,
    labels: Vec<u8>,
    digest: String,
}

/// Without the pixels, which are too many to read.
impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory")
            .field("images", &self.labels.len())
            .field("digest", &self.digest)
            .finish_non_exhaustive()
    }
}

impl Source {
    pub(crate) fn open(
        data: &Data,
        role: Role,
        shape: Shape,
        loaders: usize,
    ) -> Result<Self, DataError> {
        let path = Path::new(match role {
            Role::Train => &data.train,
            Role::Validation => &data.validation,
        });
        let encoded = |store| Encoded::open(store, data, loaders).map(Self::Encoded);
        match data.format {
            DataFormat::Idx => idx::open(folder(path)?, role, shape).map(Self::Memory),
            DataFormat::Cifar => cifar::open(folder(path)?, role, shape).map(Self::Memory),
            DataFormat::ImageFolder => encoded(Box::new(Folder::open(folder(path)?, shape)?)),
            DataFormat::WebDataset => encoded(Box::new(Shards::open(path, shape, loaders)?)),
            DataFormat::Parquet => encoded(Box::new(Parquet::open(path, shape, loaders)?)),
        }
    }

    /// Checks that labels mean the same here and in `validation`.
    pub(crate) fn agrees_with(&self, validation: &Self) -> Result<(), DataError> {
        match (self, validation) {
            (Self::Encoded(train), Self::Encoded(validation)) => train.agrees_with(validation),
            _ => Ok(()),
        }
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Memory(memory) => memory.labels.len(),
            Self::Encoded(encoded) => encoded.len(),
        }
    }

    pub(crate) fn label(&self, index: usize) -> u32 {
        match self {
            Self::Memory(memory) => u32::from(memory.labels[index]),
            Self::Encoded(encoded) => encoded.label(index),
        }
    }

    /// An image as it is stored, with the channels of `shape`.
    pub(crate) fn picture(&self, index: usize, shape: Shape) -> Result<Picture, DataError> {
        match self {
            Self::Memory(memory) => {
                let first = index * shape.values();
                let planes = &memory.pixels[first..first + shape.values()];
                Ok(Picture::from_planes(
                    shape.image_size,
                    shape.channels,
                    planes,
                ))
            }
            Self::Encoded(encoded) => encoded.picture(index, shape.channels),
        }
    }

    /// Takes note of a damaged image.
    ///
    /// # Errors
    /// The image, where damaged ones are refused; too many of them, where they are skipped.
    pub(crate) fn skip(&self, index: usize, bad: BadImage) -> Result<(), DataError> {
        match self {
            Self::Memory(_) => Err(DataError::Image(bad)),
            Self::Encoded(encoded) => encoded.skip(index, bad),
        }
    }

    /// What is known of damaged images that are skipped, if there are any.
    pub(crate) fn damaged(&self) -> Option<String> {
        match self {
            Self::Memory(_) => None,
            Self::Encoded(encoded) => encoded.damaged(),
        }
    }

    pub(crate) fn digest(&self) -> &str {
        match self {
            Self::Memory(memory) => &memory.digest,
            Self::Encoded(encoded) => encoded.digest(),
        }
    }
}

fn folder(path: &Path) -> Result<&Path, DataError> {
    match path.metadata().map_err(DataError::read(path))?.is_dir() {
        true => Ok(path),
        false => Err(DataError::content(path, "not a folder")),
    }
}

/// Checks what a format fixes against what the model expects.
fn expect(field: &'static str, format: &str, found: usize, wanted: usize) -> Result<(), DataError> {
    if found == wanted {
        return Ok(());
    }
    Err(DataError::field(
        field,
        format!("{wanted} does not fit {format}: {found} is needed"),
    ))
}

/// Checks that labels are below the number of classes.
fn labels_within(path: &Path, labels: &[u8], classes: usize) -> Result<(), DataError> {
    match labels
        .iter()
        .position(|&label| usize::from(label) >= classes)
    {
        None => Ok(()),
        Some(index) => {
            let label = labels[index];
            let reason = format!("sample {index} has label {label}, model.classes is {classes}");
            Err(DataError::content(path, reason))
        }
    }
}
