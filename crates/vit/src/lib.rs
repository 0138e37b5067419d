//! One vision transformer, pruned once and gated per input.
//!
//! The method is that of "USDC: Unified Static and Dynamic Compression for Visual Transformer"
//! ([paper], arXiv 2310.11117). Doc comments mark what is stated there as [paper], what is
//! reconstructed from what is published as [inferred], and what is our own as [ours].
//!
//! Names of tensors end in their shape:
//!
//! | letter | meaning |
//! |---|---|
//! | `B` | samples of a batch or micro-batch |
//! | `S` | samples of the batch that run a module |
//! | `G` | groups that gate together |
//! | `C` | channels of the image; `side` by `side` pixels are written `HW` after it |
//! | `N` | tokens, the CLS token included |
//! | `D` | embedding width |
//! | `L` | blocks |
//! | `M` | modules, 2L: MHSA of block 0, FFN of block 0, MHSA of block 1, .. |
//! | `H`, `h`, `d` | attention heads, heads that stay, width of a head |
//! | `n` | FFN neurons |
//! | `K` | classes, or candidates of a static choice |
//! | `T`, `i`, `e`, `r` | of the T2T stem: tokens, width of its input, width inside, random features |
//!
//! This crate knows no collective and no optimiser: it computes what a step needs on one device.
#![forbid(unsafe_code)]
#![allow(
    rustdoc::broken_intra_doc_links,
    reason = "shapes and source tags stand in brackets"
)]
#![allow(
    non_snake_case,
    reason = "shapes are written in the letters of the legend"
)]

mod attention;
mod block;
mod chance;
mod choice;
mod cost;
mod ffn;
mod gate;
mod grouping;
mod groups;
mod import;
mod information;
mod init;
mod latency;
mod layers;
mod loss;
mod masks;
mod mismatch;
mod param;
mod precision;
mod pth;
mod ranking;
mod resource;
mod routing;
mod search;
mod slice;
mod stem;
mod taylor;
mod tile;
mod vit;
mod weights;

pub use choice::{Candidate, Choice, Probabilities};
pub use cost::{Cost, Sizes};
pub use espalier_config::{
    AtBudget, BlockStructure, Config, ConfigError, Dims, GateBudget, GateConfig, Structure,
};
pub use gate::noise as gate_noise;
pub use grouping::{Plan, plan};
pub use groups::Groups;
pub use import::{FileFormat, import};
pub use information::{information_loss, information_sums};
pub use latency::{LatencyError, LatencyTable, Point};
pub use loss::{cross_entropy_sum, distillation_sum, mixed_cross_entropy_sum};
pub use masks::Masks;
pub use mismatch::Mismatch;
pub use param::{Param, ParamKind};
pub use precision::NoBf16;
pub use pth::PthError;
pub use ranking::Ranking;
pub use resource::{Budget, Resource, global_mean_M, resource_loss};
pub use routing::Routing;
pub use search::{Search, neuron_candidates};
pub use slice::{SliceError, slice, slice_tensors};
pub use vit::{Output, Vit};
pub use weights::{Tensors, WeightsError, copy_into, load_tensors, save_tensors};
