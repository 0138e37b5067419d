//! Images and labels as the trainer sees them: read, checked, normalised, sampled and augmented.
//!
//! Everything random is a pure function of the job's seed and of what it is for (epoch, step,
//! sample): which samples a step holds and how they look does not depend on who loads them.
//! Images are CHW, `f32`, normalised per channel.
#![forbid(unsafe_code)]

mod augment;
mod batch;
mod dataset;
mod error;
mod loader;
mod normalise;
mod sampler;
mod shape;
mod source;
mod splits;

pub use augment::Augmentation;
pub use batch::{Batch, load_batch};
pub use dataset::Dataset;
pub use error::DataError;
pub use loader::{Feed, Loaded, Loader, Work};
pub use sampler::Sampler;
pub use shape::Shape;
pub use splits::Splits;
