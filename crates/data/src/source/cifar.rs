//! The binary version of CIFAR: records of label bytes and 3 planes of 32 by 32 pixels.

use std::fs;
use std::path::{Path, PathBuf};

use super::{Digest, Memory, Role, expect, labels_within};
use crate::{DataError, Shape};

const SIDE: usize = 32;
const PIXELS: usize = 3 * SIDE * SIDE;

/// Which CIFAR, told by the names of the files.
#[derive(Clone, Copy)]
enum Kind {
    /// CIFAR-10: one label byte.
    Ten,
    /// CIFAR-100: the coarse label, then the fine one, which is the one used.
    Hundred,
}

pub(super) fn open(folder: &Path, role: Role, shape: Shape) -> Result<Memory, DataError> {
    expect("model.channels", "cifar images", 3, shape.channels)?;
    expect("model.image_size", "cifar images", SIDE, shape.image_size)?;
    let (kind, paths) = files(folder, role)?;
    let mut digest = Digest::default();
    let (mut pixels, mut labels) = (Vec::new(), Vec::new());
    for path in paths {
        let bytes = fs::read(&path).map_err(DataError::read(&path))?;
        let label_bytes = match kind {
            Kind::Ten => 1,
            Kind::Hundred => 2,
        };
        let record = label_bytes + PIXELS;
        if bytes.is_empty() || !bytes.len().is_multiple_of(record) {
            let reason = format!(
                "{} bytes are not a whole number of records of {record}",
                bytes.len()
            );
            return Err(DataError::content(path, reason));
        }
        digest.bytes(&bytes);
        let first = labels.len();
        for record in bytes.chunks_exact(record) {
            labels.push(record[label_bytes - 1]);
            pixels.extend_from_slice(&record[label_bytes..]);
        }
        labels_within(&path, &labels[first..], shape.classes)?;
    }
    Ok(Memory {
        pixels,
        labels,
        digest: digest.finish(),
    })
}

/// The files of CIFAR-10 if there are any, else that of CIFAR-100.
fn files(folder: &Path, role: Role) -> Result<(Kind, Vec<PathBuf>), DataError> {
    let (ten, hundred): (&[&str], &str) = match role {
        Role::Train => (&TRAIN, "train.bin"),
        Role::Validation => (&["test_batch.bin"], "test.bin"),
    };
    let existing = |name: &&str| Some(folder.join(name)).filter(|path| path.exists());
    let batches: Vec<PathBuf> = ten.iter().filter_map(existing).collect();
    if !batches.is_empty() {
        return Ok((Kind::Ten, batches));
    }
    match existing(&hundred) {
        Some(path) => Ok((Kind::Hundred, vec![path])),
        None => {
            let reason = format!("holds neither {} nor {hundred}", ten[0]);
            Err(DataError::content(folder, reason))
        }
    }
}

const TRAIN: [&str; 5] = [
    "data_batch_1.bin",
    "data_batch_2.bin",
    "data_batch_3.bin",
    "data_batch_4.bin",
    "data_batch_5.bin",
];
