use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use espalier_config::{Config, Structure};
use serde_json::Value;

use crate::tensors::{self, Tensors};
use crate::{LayoutError, huggingface, timm};

/// Another library's way to keep a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// timm 1.x: `timm.create_model("local-dir:FOLDER", pretrained=True)`.
    Timm,
    /// Hugging Face's transformers: `AutoModelForImageClassification.from_pretrained("FOLDER")`.
    HuggingFace,
}

/// What goes into the folder.
pub(crate) struct Contents {
    pub(crate) tensors: Tensors,
    pub(crate) json: Vec<(&'static str, Value)>,
}

/// Writes the checkpoint in `folder` as the new folder `out`, whole or not at all. Gives the paths of its
/// files.
///
/// # Errors
/// Files that cannot be read or written, `out` that is there already, and every reason why the library
/// cannot express the model.
pub fn export(folder: &Path, out: &Path, layout: Layout) -> Result<Vec<PathBuf>, LayoutError> {
    let config = read_config(&folder.join("config.json"))?;
    config.check()?;
    let path = folder.join("model.safetensors");
    let file = fs::read(&path).map_err(io_error(&path, "read the file"))?;
    let tensors = tensors::read(&file)?;
    let contents = match layout {
        Layout::Timm => timm::contents(&config, tensors)?,
        Layout::HuggingFace => huggingface::contents(&config, tensors)?,
    };
    write(out, &contents)
}

fn read_config(path: &Path) -> Result<Config, LayoutError> {
    let bytes = fs::read(path).map_err(io_error(path, "read the file"))?;
    serde_json::from_slice(&bytes).map_err(|source| LayoutError::Json {
        path: path.to_owned(),
        source,
    })
}

fn write(out: &Path, contents: &Contents) -> Result<Vec<PathBuf>, LayoutError> {
    let exists = || LayoutError::Exists {
        path: out.to_owned(),
    };
    if out.exists() {
        return Err(exists());
    }
    let above = match out.parent() {
        Some(above) if above != Path::new("") => above,
        _ => Path::new("."),
    };
    fs::create_dir_all(above).map_err(io_error(above, "make the folder"))?;
    // Named so that it belongs to nobody else, and removed unless it is moved into place.
    let partial = tempfile::Builder::new()
        .prefix(".export-")
        .tempdir_in(above)
        .map_err(io_error(above, "make a folder in it"))?;
    let inner = partial.path().join("model");
    fs::create_dir(&inner).map_err(io_error(&inner, "make the folder"))?;
    let mut names = Vec::new();
    let mut put = |name: &'static str, bytes: &[u8]| {
        names.push(out.join(name));
        let path = inner.join(name);
        fs::write(&path, bytes)
            .and_then(|()| fs::File::open(&path)?.sync_all())
            .map_err(io_error(&path, "write the file"))
    };
    put("model.safetensors", &tensors::write(&contents.tensors)?)?;
    for (name, value) in &contents.json {
        put(name, format!("{value:#}\n").as_bytes())?;
    }
    match fs::rename(&inner, out) {
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Err(exists()),
        moved => moved
            .map(|()| names)
            .map_err(io_error(out, "move the written folder into place")),
    }
}

/// Why no library but ours has the model, whatever its layout: gates, and blocks that differ.
pub(crate) fn common_reasons(config: &Config) -> Vec<String> {
    let mut reasons = Vec::new();
    if config.gate.is_some() {
        reasons.push("it has gates, without which it would answer otherwise".to_owned());
    }
    let (dims, blocks) = (&config.dims, &config.structure.blocks);
    let short = blocks
        .iter()
        .enumerate()
        .filter(|(_, block)| block.heads != dims.heads);
    let heads: Vec<String> = short
        .map(|(l, block)| format!("blocks.{l} {} of {}", block.heads, dims.heads))
        .collect();
    if !heads.is_empty() {
        reasons.push(format!(
            "attention heads were pruned ({})",
            heads.join(", ")
        ));
    }
    if uniform_neurons(&config.structure).is_none() {
        let neurons = blocks.iter().map(|block| block.neurons.to_string());
        let neurons: Vec<String> = neurons.collect();
        reasons.push(format!(
            "its blocks have different numbers of FFN neurons ({})",
            neurons.join(", ")
        ));
    }
    reasons
}

/// The number of neurons of every block; `None` where blocks differ or an FFN was dropped.
pub(crate) fn uniform_neurons(structure: &Structure) -> Option<i64> {
    let first = structure.blocks.first()?.neurons;
    let same = structure.blocks.iter().all(|block| block.neurons == first);
    (same && first > 0).then_some(first)
}

pub(crate) fn refuse(library: &'static str, reasons: Vec<String>) -> Result<(), LayoutError> {
    if reasons.is_empty() {
        return Ok(());
    }
    Err(LayoutError::Inexpressible { library, reasons })
}

fn io_error(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> LayoutError {
    let path = path.to_owned();
    move |source| LayoutError::Io {
        path,
        action,
        source,
    }
}
