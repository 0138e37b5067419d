use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where the finished checkpoint goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Publish {
    /// Name in the registry: 1 to 63 of `a-z`, `0-9`, `-`, `_` and `.`, starting with a letter or digit.
    pub name: String,
    /// Alias moved to the finished checkpoint.
    #[serde(default = "alias")]
    pub alias: String,
    /// Steps between two training checkpoints pushed to the registry, from which a lost job goes on.
    #[serde(default = "every")]
    #[schemars(range(min = 1, max = 1000000000))]
    pub every: u64,
    /// Whether the finished checkpoint also holds the model as ONNX, weights included: `model.onnx`, and
    /// `model-masked.onnx` when it has gates. Each takes as much space as `model.safetensors`.
    #[serde(default = "onnx")]
    pub onnx: bool,
}

fn alias() -> String {
    "latest".to_owned()
}

fn every() -> u64 {
    200
}

fn onnx() -> bool {
    true
}
