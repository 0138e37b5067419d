//! What a model is, apart from its weights: `config.json` of a checkpoint folder.
//!
//! It is apart from the model itself so that what only reads checkpoints does not link libtorch.
#![forbid(unsafe_code)]

mod config;
mod dims;

pub use config::{BlockStructure, Config, ConfigError, GateConfig, Structure};
pub use dims::Dims;
