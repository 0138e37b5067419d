//! Hugging Face's transformers: `ViTForImageClassification`, `DeiTForImageClassification` and its
//! variant `WithTeacher`, and `Dinov2ForImageClassification`.

mod family;
mod folder;
mod names;

pub use self::names::{Ours, ours};

pub(crate) use self::folder::contents;
