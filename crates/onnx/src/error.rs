use std::io;
use std::path::PathBuf;

use espalier_config::ConfigError;

/// Why a checkpoint has no ONNX file.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
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
    /// Chance decides which modules run: a baseline for evaluation, without a graph.
    #[error(
        "config.json: gate.decide: random gates are a baseline that ONNX cannot express; evaluate it with `espalier eval`"
    )]
    Random,
    /// The weights are not a safetensors file, or a damaged one.
    #[error("model.safetensors: not a whole safetensors file: {0}")]
    Format(#[from] safetensors::SafeTensorError),
    /// A tensor that the configuration asks for is not there.
    #[error("model.safetensors: tensor {name} is missing")]
    Missing {
        /// The tensor.
        name: String,
    },
    /// A tensor has another shape than the configuration asks for.
    #[error(
        "model.safetensors: tensor {name} is {found:?} where the configuration has {expected:?}"
    )]
    Misshaped {
        /// The tensor.
        name: String,
        /// The configuration's shape.
        expected: Vec<usize>,
        /// The file's.
        found: Vec<usize>,
    },
    /// A tensor is not of f32, which published weights are.
    #[error("model.safetensors: tensor {name} is of type {dtype}; only F32 can be exported")]
    Dtype {
        /// The tensor.
        name: String,
        /// Its type.
        dtype: safetensors::Dtype,
    },
    /// Tensors the graph has no place for: leaving them out would change the answer.
    #[error(
        "model.safetensors: the ONNX graph has no place for {}: {names}",
        if *count == 1 { "a tensor" } else { "some tensors" }
    )]
    Unplaced {
        /// The first few of them.
        names: String,
        /// How many there are.
        count: usize,
    },
    /// Weights are embedded, and a protobuf message ends at 2 GiB.
    #[error(
        "the weights take {bytes} bytes, and an ONNX file with its weights inside must stay below {LARGEST} bytes; \
         run the checkpoint from its safetensors file instead"
    )]
    TooLarge {
        /// Size of the weights or of the whole file, in bytes.
        bytes: u64,
    },
}

/// Protobuf lengths are signed 32-bit numbers.
pub(crate) const LARGEST: u64 = i32::MAX as u64;
