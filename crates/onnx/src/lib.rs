//! ONNX files of a model, written from its checkpoint folder: no libtorch, no Python.
//!
//! The graph reads like the model in `espalier-vit`, equation by equation; what the graph cannot
//! express is refused with its reason, and so is any tensor that the graph would leave out.
//!
//! Names of values that stand for tensors end in their shape: `B` samples, `N` tokens, `D` width,
//! `h` heads that stay, `d` width of a head, `n` neurons, `K` classes, `M` modules.
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
mod checkpoint;
mod error;
mod ffn;
mod gate;
mod graph;
mod head;
mod layers;
mod model;
mod ops;
mod proto;
mod stem;
mod weights;

pub use checkpoint::{MASKED_FILE, MODEL_FILE, export};
pub use error::ExportError;
pub use model::{Decide, encode};
