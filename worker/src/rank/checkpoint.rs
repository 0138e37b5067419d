//! The folder of a training checkpoint. Going on from one is bit-equal to never having stopped.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use espalier_vit::{
    Param, ParamKind, Ranking, Structure, WeightsError, load_tensors, save_tensors,
};
use serde::{Deserialize, Serialize};
use tch::{Device, Tensor};

use super::error::{TrainError, chain};

const STATE: &str = "state.json";
const WEIGHTS: &str = "model.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const IMPORTANCE: &str = "importance.safetensors";
const EMA: &str = "ema.safetensors";
const MEAN: &str = "mean";
const SQUARE: &str = "square";
const AVERAGE: &str = "average";

/// `state.json`: all that is not a tensor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct State {
    /// Steps that are done.
    pub step: u64,
    /// The job's seed.
    pub seed: u64,
    /// SHA-256 of the job document, in hex.
    pub spec_digest: String,
    /// What is there of the model.
    pub structure: Structure,
    /// Importance of heads and neurons in force; only while searching.
    pub ranking: Option<Ranking>,
}

/// What a training checkpoint holds besides its state.
#[derive(Debug)]
pub(super) struct Tensors {
    /// Weights, gates and alpha, by name.
    pub parameters: Vec<Param>,
    /// AdamW's moments, f32 `[P]` each.
    pub moments: (Tensor, Tensor),
    /// The moving average, f32 `[P]`.
    pub average: Option<Tensor>,
    /// What the search knows of importance since the last ranking; empty where norms rank.
    pub importance: Vec<Param>,
}

/// Writes `folder`, whole and on disk.
///
/// # Errors
/// The file system's.
pub(super) fn save(folder: &Path, state: &State, tensors: &Tensors) -> Result<(), TrainError> {
    let named = |name: &str, tensor: &Tensor| Param {
        name: name.to_owned(),
        tensor: tensor.shallow_clone(),
        // Not kept in a file.
        kind: ParamKind::Weight { decay: false },
    };
    publish(folder, |partial| {
        let store = |file: &str, params: &[Param]| {
            save_tensors(&partial.join(file), params).map_err(|error| write_failed(partial, &error))
        };
        store(WEIGHTS, &tensors.parameters)?;
        let (mean, square) = &tensors.moments;
        store(OPTIMIZER, &[named(MEAN, mean), named(SQUARE, square)])?;
        if let Some(average) = &tensors.average {
            store(EMA, &[named(AVERAGE, average)])?;
        }
        if !tensors.importance.is_empty() {
            store(IMPORTANCE, &tensors.importance)?;
        }
        write_json(&partial.join(STATE), state)
    })
}

/// Reads the state of `folder`.
///
/// # Errors
/// A file that is missing or damaged.
pub(super) fn load_state(folder: &Path) -> Result<State, TrainError> {
    let path = folder.join(STATE);
    let text = fs::read(&path).map_err(|error| damaged(&path, error.to_string()))?;
    serde_json::from_slice(&text).map_err(|error| damaged(&path, error.to_string()))
}

/// Copies the weights of `folder` into `parameters` and `importance`, in place, and reads the rest.
///
/// # Errors
/// A file that is missing, damaged or of another model.
pub(super) fn load(
    folder: &Path,
    parameters: Vec<Param>,
    importance: Vec<Param>,
    ema: bool,
    device: Device,
) -> Result<Tensors, TrainError> {
    let read = |file: &str| {
        let path = folder.join(file);
        load_tensors(&path, device).map_err(|error| damaged(&path, chain(&error)))
    };
    let fill = |file: &str, params: &[Param]| {
        espalier_vit::copy_into(params, &read(file)?)
            .map_err(|mismatch| damaged(&folder.join(file), mismatch.to_string()))
    };
    fill(WEIGHTS, &parameters)?;
    if !importance.is_empty() {
        fill(IMPORTANCE, &importance)?;
    }
    let one = |file: &str, name: &str| {
        read(file)?
            .remove(name)
            .ok_or_else(|| damaged(&folder.join(file), format!("tensor {name} is missing")))
    };
    Ok(Tensors {
        parameters,
        importance,
        moments: (one(OPTIMIZER, MEAN)?, one(OPTIMIZER, SQUARE)?),
        average: ema.then(|| one(EMA, AVERAGE)).transpose()?,
    })
}

/// Fills a folder beside `folder` and moves it there, so that `folder` is whole or absent whatever
/// happens.
///
/// # Errors
/// Those of `fill`, and the file system's.
pub(super) fn publish(
    folder: &Path,
    fill: impl FnOnce(&Path) -> Result<(), TrainError>,
) -> Result<(), TrainError> {
    let failed = |source| TrainError::Write {
        path: folder.to_owned(),
        source,
    };
    let partial = folder.with_extension("partial");
    for leftover in [&partial, folder] {
        match fs::remove_dir_all(leftover) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
    }
    fs::create_dir_all(&partial).map_err(failed)?;
    fill(&partial)?;
    sync(&partial).map_err(failed)?;
    fs::rename(&partial, folder).map_err(failed)?;
    sync(folder.parent().unwrap_or(Path::new("."))).map_err(failed)
}

/// Writes a JSON file and syncs it.
///
/// # Errors
/// The file system's.
pub(super) fn write_json(path: &Path, value: &impl Serialize) -> Result<(), TrainError> {
    let failed = |source| TrainError::Write {
        path: path.to_owned(),
        source,
    };
    let mut text = serde_json::to_vec_pretty(value).map_err(|error| failed(error.into()))?;
    text.push(b'\n');
    write(path, &text)
}

/// Writes a file and syncs it.
///
/// # Errors
/// The file system's.
pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<(), TrainError> {
    File::create(path)
        .and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        })
        .map_err(|source| TrainError::Write {
            path: path.to_owned(),
            source,
        })
}

/// A writer's error as this module's.
pub(super) fn write_failed(folder: &Path, error: &WeightsError) -> TrainError {
    TrainError::Write {
        path: folder.to_owned(),
        source: io::Error::other(chain(error)),
    }
}

fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn damaged(path: &Path, reason: String) -> TrainError {
    TrainError::Checkpoint {
        path: PathBuf::from(path),
        reason,
    }
}
