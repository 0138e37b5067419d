//! Reads the files of `torch.save` without executing what they hold.
//!
//! Such a file is a zip archive of a pickle, which says how the tensors are cut from storages, and of
//! the storages. A pickle is a program; here only its data is built, and what it would call becomes a
//! placeholder, except for the few calls that describe tensors.

use std::fs::File;
use std::io::{BufReader, Seek as _, SeekFrom};
use std::path::Path;

use tch::Device;
use zip::result::ZipError;

use crate::Tensors;

mod archive;
mod machine;
mod state_dict;
#[cfg(test)]
mod tests;
mod value;

/// Why a file of `torch.save` cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum PthError {
    /// The file system refused.
    #[error("cannot read the file")]
    Io(#[from] std::io::Error),
    /// Not an archive, or a damaged one.
    #[error(
        "not a whole archive of torch.save; a file older than PyTorch 1.6 has to be loaded and saved again with a later one"
    )]
    Archive(#[from] ZipError),
    /// An entry of the archive that cannot be taken.
    #[error("entry {name}: {reason}")]
    Entry {
        /// Name of the entry.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The pickle is damaged, or says what weights have no need of.
    #[error("data.pkl, byte {offset}: {reason}")]
    Pickle {
        /// Place in the pickle.
        offset: usize,
        /// What is wrong there.
        reason: String,
    },
    /// The pickle holds something else.
    #[error(
        "there is no state dict in it: neither the file's object nor its `state_dict_ema`, `model_ema`, `model` or `state_dict` is a dict of tensors"
    )]
    NoStateDict,
    /// A tensor that cannot be taken.
    #[error("tensor {name}: {reason}")]
    Tensor {
        /// Name of the tensor.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// The tensors of the state dict in the file at `path`, as f32 on `device`.
///
/// # Errors
/// A file that is damaged, or is not of weights. Whatever it says of itself, it takes no more memory
/// than a small multiple of its size.
pub(crate) fn load(path: &Path, device: Device) -> Result<Tensors, PthError> {
    let mut file = File::open(path)?;
    let length = file.seek(SeekFrom::End(0))?;
    file.rewind()?;
    let mut archive = archive::Archive::open(BufReader::new(file), length)?;
    let pickle = machine::run(&archive.pickle()?)?;
    let parts = state_dict::find(&pickle)?;
    archive.tensors(parts, device)
}
