//! The files images come from.

mod cifar;
mod complete;
mod digest;
mod folder;
mod idx;
mod picture;

use std::borrow::Cow;
use std::fmt;
use std::path::Path;

use espalier_job::{Data, DataFormat};

pub(crate) use digest::Digest;
use folder::Folder;

use crate::{DataError, Shape};

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
    Folder(Folder),
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
    pub(crate) fn open(data: &Data, role: Role, shape: Shape) -> Result<Self, DataError> {
        let folder = Path::new(match role {
            Role::Train => &data.train,
            Role::Validation => &data.validation,
        });
        let is_folder = folder.metadata().map_err(DataError::read(folder))?.is_dir();
        if !is_folder {
            return Err(DataError::content(folder, "not a folder"));
        }
        match data.format {
            DataFormat::Idx => idx::open(folder, role, shape).map(Self::Memory),
            DataFormat::Cifar => cifar::open(folder, role, shape).map(Self::Memory),
            DataFormat::ImageFolder => Folder::open(folder, shape).map(Self::Folder),
        }
    }

    /// Checks that labels mean the same here and in `validation`.
    pub(crate) fn agrees_with(&self, validation: &Self) -> Result<(), DataError> {
        match (self, validation) {
            (Self::Folder(train), Self::Folder(validation)) => train.agrees_with(validation),
            _ => Ok(()),
        }
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Memory(memory) => memory.labels.len(),
            Self::Folder(folder) => folder.len(),
        }
    }

    pub(crate) fn label(&self, index: usize) -> u32 {
        match self {
            Self::Memory(memory) => u32::from(memory.labels[index]),
            Self::Folder(folder) => folder.label(index),
        }
    }

    /// The pixels of an image, CHW of `shape`.
    pub(crate) fn pixels(&self, index: usize, shape: Shape) -> Result<Cow<'_, [u8]>, DataError> {
        match self {
            Self::Memory(memory) => {
                let first = index * shape.values();
                Ok(Cow::Borrowed(&memory.pixels[first..first + shape.values()]))
            }
            Self::Folder(folder) => folder.pixels(index, shape).map(Cow::Owned),
        }
    }

    pub(crate) fn digest(&self) -> &str {
        match self {
            Self::Memory(memory) => &memory.digest,
            Self::Folder(folder) => folder.digest(),
        }
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
