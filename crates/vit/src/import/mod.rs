//! Weights as other tools keep them, under our names.

use std::path::Path;

use tch::Device;

use crate::weights::{Tensors, WeightsError, load_tensors};
use crate::{Dims, pth};

mod huggingface;
mod position;

/// How a file keeps tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileFormat {
    /// safetensors.
    Safetensors,
    /// An archive of `torch.save`; nothing in it is executed.
    Pth,
}

/// The tensors of `path` under timm's names, as f32 on `device`, with position embeddings for the
/// image of `dims`. Whether they are those of the model is for who loads them to find out.
///
/// Names may be timm's, which DeiT, DINOv2 and T2T-ViT use too, or Hugging Face's.
///
/// # Errors
/// A file that cannot be read, is of another format, or holds what no weight can be.
pub fn import(
    path: &Path,
    format: FileFormat,
    dims: &Dims,
    device: Device,
) -> Result<Tensors, WeightsError> {
    let tensors = match format {
        FileFormat::Safetensors => load_tensors(path, device)?,
        FileFormat::Pth => pth::load(path, device).map_err(|source| WeightsError::Pth {
            path: path.to_owned(),
            source,
        })?,
    };
    let mut tensors = if huggingface::is_layout_of(&tensors) {
        huggingface::renamed(tensors)
    } else {
        tensors
    };
    // DINOv2 masks patches with it in its own training alone.
    tensors.remove("mask_token");
    if let Some(pos_embed) = tensors.get_mut("pos_embed") {
        *pos_embed = position::resampled(pos_embed, dims);
    }
    Ok(tensors)
}
