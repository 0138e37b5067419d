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
mod feed;
mod loader;
mod mix;
mod normalise;
mod picture;
#[cfg(test)]
mod reference;
mod resample;
mod sampler;
mod shape;
mod source;
mod splits;

pub use augment::Augmentation;
pub use batch::{Batch, load_batch};
pub use dataset::Dataset;
pub use error::{BadImage, DataError};
pub use feed::{Feed, Loaded, Work};
pub use loader::{Loader, loaders};
pub use mix::Mixed;
pub use sampler::Sampler;
pub use shape::Shape;
pub use splits::Splits;
