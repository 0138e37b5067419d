//! The job: what a user asks Espalier to train, as one TOML document.
//!
//! The types here are the schema; `docs/job.md` is generated from their doc comments. Parsing
//! reports every problem at once, each with its path, and refuses unknown fields with a suggestion.
#![forbid(unsafe_code)]
#![allow(
    rustdoc::broken_intra_doc_links,
    reason = "shapes and source tags stand in brackets"
)]

mod architecture;
mod augment;
mod compress;
mod data;
mod dims;
mod document;
mod gate;
mod mix;
mod model;
mod names;
mod paths;
mod preset;
mod problem;
mod publish;
mod reference;
mod resources;
mod rules;
mod schema;
mod sections;
mod stages;
#[cfg(test)]
mod tests;
mod train;

pub use architecture::{Architecture, Distilled, QkScale, Stem};
pub use augment::{Augment, Erase, RandAugment, RandomCrop};
pub use compress::{
    Compress, Cost, Grouping, GroupingPolicy, Importance, Mode, ResourceForm, Search, Static, Tune,
};
pub use data::{Damaged, Data, DataFormat, Interpolation};
pub use dims::Dims;
pub use gate::{Adapt, Average, Budgets, DecideBy, Gate, GateInput};
pub use mix::{Mix, MixMode};
pub use model::{Init, Model};
pub use names::{valid_name, valid_reference};
pub use preset::Preset;
pub use problem::{Problem, Problems};
pub use publish::Publish;
pub use reference::reference;
pub use resources::{Device, Priority, RanksPerWorker, Resources, Straggler, Workers};
pub use schema::schema;
pub use train::{Distillation, DistillationKind, Optimizer, ReduceDtype, Schedule, Train};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A training job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Job {
    /// Name shown to people: 1 to 63 of `a-z`, `0-9`, `-`, `_` and `.`, starting with a letter or digit.
    pub name: String,
    /// The vision transformer to compress.
    pub model: Model,
    /// Where the images are and how they are prepared.
    pub data: Data,
    /// What is pruned, what is gated, and to which budget.
    #[serde(default)]
    pub compress: Compress,
    /// How the steps are run.
    pub train: Train,
    /// What the job needs to run.
    #[serde(default)]
    pub resources: Resources,
    /// Where the finished checkpoint goes.
    pub publish: Publish,
}
