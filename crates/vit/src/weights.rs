use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensorError, SafeTensors};
use tch::{Device, Kind, Tensor, no_grad};

use crate::mismatch::Mismatch;
use crate::param::Param;
use crate::pth::PthError;
use crate::{Config, ConfigError};

/// Tensors by name.
pub type Tensors = BTreeMap<String, Tensor>;

/// Why a checkpoint's files cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// The file system refused.
    #[error("{}: cannot {action}", path.display())]
    Io {
        /// The file or its folder.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Not a safetensors file, or a damaged one.
    #[error("{}: not a whole safetensors file", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: SafeTensorError,
    },
    /// Not weights saved by PyTorch, or a damaged file.
    #[error("{}: cannot take weights from it", path.display())]
    Pth {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: PthError,
    },
    /// A tensor of a type no weight can have.
    #[error("{}: tensor {name} is of type {dtype}; only F32, F16, BF16 and F64 can be loaded", path.display())]
    Dtype {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its type.
        dtype: Dtype,
    },
    /// `config.json` is not the JSON of a configuration.
    #[error("{}: not the configuration of a model", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What is wrong, with line and column.
        source: serde_json::Error,
    },
    /// `config.json` describes no model.
    #[error("{}: {reason}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// The field and what is wrong with it.
        reason: ConfigError,
    },
    /// The tensors are not those of the model.
    #[error("{}: {mismatch}", path.display())]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// Every difference.
        mismatch: Mismatch,
    },
}

/// Copies `tensors` into `params`, in place: every one of both, or nothing.
///
/// # Errors
/// Every tensor that is missing, unknown or of another shape.
pub fn copy_into(params: &[Param], tensors: &Tensors) -> Result<(), Mismatch> {
    let mut mismatch = Mismatch::default();
    let mut unknown: BTreeMap<&str, ()> = tensors.keys().map(|name| (name.as_str(), ())).collect();
    let mut pairs = Vec::with_capacity(params.len());
    for param in params {
        unknown.remove(param.name.as_str());
        let expected = param.tensor.size();
        match tensors.get(&param.name) {
            None => mismatch.missing.push(param.name.clone()),
            Some(tensor) if tensor.size() != expected => {
                let found = tensor.size();
                mismatch
                    .misshaped
                    .push((param.name.clone(), expected, found));
            }
            Some(tensor) => pairs.push((param.tensor.shallow_clone(), tensor)),
        }
    }
    mismatch.unknown = unknown.into_keys().map(str::to_owned).collect();
    if mismatch != Mismatch::default() {
        return Err(mismatch);
    }
    no_grad(|| {
        for (mut param, tensor) in pairs {
            param.copy_(tensor);
        }
    });
    Ok(())
}

/// The tensors of the safetensors file at `path`, as f32 on `device`.
///
/// # Errors
/// A file that cannot be read, is no safetensors file, or holds tensors that are not of floating point.
pub fn load_tensors(path: &Path, device: Device) -> Result<Tensors, WeightsError> {
    let bytes = fs::read(path).map_err(io_error(path, "read the file"))?;
    let file = SafeTensors::deserialize(&bytes).map_err(|source| WeightsError::Format {
        path: path.to_owned(),
        source,
    })?;
    let one = |(name, view): (&str, TensorView<'_>)| {
        let kind = match view.dtype() {
            Dtype::F32 => Kind::Float,
            Dtype::F16 => Kind::Half,
            Dtype::BF16 => Kind::BFloat16,
            Dtype::F64 => Kind::Double,
            dtype => {
                return Err(WeightsError::Dtype {
                    path: path.to_owned(),
                    name: name.to_owned(),
                    dtype,
                });
            }
        };
        let shape: Vec<i64> = view.shape().iter().map(|&size| size as i64).collect();
        let tensor = Tensor::from_data_size(view.data(), &shape, kind);
        Ok((
            name.to_owned(),
            tensor.to_device(device).to_kind(Kind::Float),
        ))
    };
    file.iter().map(one).collect()
}

/// Writes the values of `params` as f32 to a safetensors file: whole and on disk, or not at all.
///
/// # Errors
/// A file that cannot be written.
pub fn save_tensors(path: &Path, params: &[Param]) -> Result<(), WeightsError> {
    let data: Vec<(&str, Vec<usize>, Vec<u8>)> = params
        .iter()
        .map(|param| {
            let shape = param.tensor.size().into_iter().map(|size| size as usize);
            (
                param.name.as_str(),
                shape.collect(),
                bytes_of(&param.tensor),
            )
        })
        .collect();
    let format = |source| WeightsError::Format {
        path: path.to_owned(),
        source,
    };
    let views = data
        .iter()
        .map(|(name, shape, bytes)| Ok((*name, TensorView::new(Dtype::F32, shape.clone(), bytes)?)))
        .collect::<Result<Vec<_>, SafeTensorError>>()
        .map_err(format)?;
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    let bytes = safetensors::serialize(views, Some(metadata)).map_err(format)?;
    write_durably(path, &bytes)
}

/// Little-endian f32 values of `tensor`, row by row.
fn bytes_of(tensor: &Tensor) -> Vec<u8> {
    let count = tensor.numel();
    let flat = tensor
        .detach()
        .to_device(Device::Cpu)
        .to_kind(Kind::Float)
        .contiguous();
    let mut bytes = vec![0; 4 * count];
    flat.copy_data_u8(&mut bytes, count);
    bytes
}

pub(crate) fn load_config(path: &Path) -> Result<Config, WeightsError> {
    let bytes = fs::read(path).map_err(io_error(path, "read the file"))?;
    serde_json::from_slice(&bytes).map_err(json_error(path))
}

pub(crate) fn save_config(path: &Path, config: &Config) -> Result<(), WeightsError> {
    let mut json = serde_json::to_vec_pretty(config).map_err(json_error(path))?;
    json.push(b'\n');
    write_durably(path, &json)
}

/// Writes beside `path`, syncs, renames over it and syncs the folder, so that after a crash at any
/// point the file is the old one or the new one.
fn write_durably(path: &Path, bytes: &[u8]) -> Result<(), WeightsError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".partial");
    let partial = path.with_file_name(name);
    let mut file = File::create(&partial).map_err(io_error(&partial, "create the file"))?;
    file.write_all(bytes)
        .and_then(|()| file.sync_all())
        .map_err(io_error(&partial, "write the file"))?;
    fs::rename(&partial, path).map_err(io_error(path, "move the written file into place"))?;
    let folder = path.parent().unwrap_or(Path::new("."));
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(io_error(folder, "sync the folder"))
}

fn io_error(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> WeightsError {
    let path = path.to_owned();
    move |source| WeightsError::Io {
        path,
        action,
        source,
    }
}

fn json_error(path: &Path) -> impl FnOnce(serde_json::Error) -> WeightsError {
    let path = path.to_owned();
    move |source| WeightsError::Json { path, source }
}
