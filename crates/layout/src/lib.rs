//! Models as other libraries keep them: their names of tensors, and folders that they load.
//!
//! A folder is written from a checkpoint's, without libtorch and without Python, and only when the other
//! library computes the same with it: what it cannot express is refused with its reason.
#![forbid(unsafe_code)]

mod error;
mod export;
pub mod huggingface;
mod tensors;
mod timm;

pub use error::LayoutError;
pub use export::{Layout, export};
