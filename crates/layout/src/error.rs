use std::io;
use std::path::PathBuf;

use espalier_config::ConfigError;

/// Why a checkpoint cannot be written in another layout.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// The file system refused.
    #[error("{}: cannot {action}", path.display())]
    Io {
        /// The file or the folder.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The folder is there already.
    #[error("{}: there already; give a folder that is to be made", path.display())]
    Exists {
        /// The folder.
        path: PathBuf,
    },
    /// `config.json` is not the JSON of a configuration.
    #[error("{}: not the configuration of a model: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What is wrong, with line and column.
        source: serde_json::Error,
    },
    /// `config.json` describes no model.
    #[error("config.json: {0}")]
    Config(#[from] ConfigError),
    /// The weights are not a safetensors file, or a damaged one.
    #[error("model.safetensors: not a whole safetensors file: {0}")]
    Format(#[from] safetensors::SafeTensorError),
    /// A tensor that cannot be taken over.
    #[error("model.safetensors: tensor {name} {reason}")]
    Tensor {
        /// The tensor.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The other library has no such model.
    #[error("{library} cannot express this model: {}", reasons.join("; "))]
    Inexpressible {
        /// The library.
        library: &'static str,
        /// All that stands against it.
        reasons: Vec<String>,
    },
}
