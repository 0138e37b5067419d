//! What a model is, apart from its weights: `config.json` of a checkpoint folder.
//!
//! It is apart from the model itself so that what only reads checkpoints does not link libtorch.
#![forbid(unsafe_code)]
#![allow(
    rustdoc::broken_intra_doc_links,
    reason = "shapes and source tags stand in brackets"
)]

mod budget;
mod config;
mod dims;

pub use budget::{AtBudget, GateBudget};
pub use config::{BlockStructure, Config, ConfigError, GateConfig, Structure};
pub use dims::Dims;
