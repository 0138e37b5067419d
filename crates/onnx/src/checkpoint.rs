use std::fs::{self, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use espalier_config::Config;

use crate::error::LARGEST;
use crate::{Decide, ExportError, encode};

/// Name of the ONNX file of a model; its gates, if it has any, decide for the batch.
pub const MODEL_FILE: &str = "model.onnx";
/// Name of the ONNX file of a gated model whose samples decide alone.
pub const MASKED_FILE: &str = "model-masked.onnx";

/// Writes the ONNX files of the checkpoint in `folder` into `out`, which must be there: always
/// `model.onnx`, and `model-masked.onnx` when the model has gates. Each is whole or not there at all.
/// Gives their paths. The model runs at its own budget unless it is given another of those it can be run at.
///
/// # Errors
/// Files that cannot be read or written, a budget that the model cannot be run at, and all that [`encode`]
/// refuses.
pub fn export(folder: &Path, out: &Path, budget: Option<f64>) -> Result<Vec<PathBuf>, ExportError> {
    let mut config = read_config(&folder.join("config.json"))?;
    if let Some(budget) = budget {
        config = config.at_budget(budget)?;
    }
    let weights = read_weights(&folder.join("model.safetensors"))?;
    let mut files = vec![(MODEL_FILE, Decide::Shared)];
    if config.gate.is_some() {
        files.push((MASKED_FILE, Decide::PerSample));
    }
    let mut written = Vec::with_capacity(files.len());
    for (name, decide) in files {
        let path = out.join(name);
        write(&path, &encode(&config, &weights, decide)?)?;
        written.push(path);
    }
    Ok(written)
}

fn read_config(path: &Path) -> Result<Config, ExportError> {
    let bytes = fs::read(path).map_err(io_error(path, "read the file"))?;
    serde_json::from_slice(&bytes).map_err(|source| ExportError::Json {
        path: path.to_owned(),
        source,
    })
}

fn read_weights(path: &Path) -> Result<Vec<u8>, ExportError> {
    let bytes = fs::metadata(path)
        .map_err(io_error(path, "read the file"))?
        .len();
    if bytes > LARGEST {
        return Err(ExportError::TooLarge { bytes });
    }
    fs::read(path).map_err(io_error(path, "read the file"))
}

/// Writes beside `path`, syncs and renames over it.
fn write(path: &Path, bytes: &[u8]) -> Result<(), ExportError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new()
        .prefix(".onnx-")
        // As for any new file, less the umask; a temporary file's own would keep others out.
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(folder)
        .map_err(io_error(folder, "create a file"))?;
    file.write_all(bytes)
        .and_then(|()| file.as_file().sync_all())
        .map_err(io_error(path, "write the file"))?;
    file.persist(path)
        .map_err(|error| io_error(path, "move the written file into place")(error.error))?;
    Ok(())
}

fn io_error(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> ExportError {
    let path = path.to_owned();
    move |source| ExportError::Io {
        path,
        action,
        source,
    }
}
