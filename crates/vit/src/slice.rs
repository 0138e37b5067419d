use tch::{Device, Tensor};

use crate::mismatch::Mismatch;
use crate::weights::Tensors;
use crate::{Config, ConfigError, Ranking, Structure, Vit};

/// Why a model cannot be sliced.
#[derive(Debug, thiserror::Error)]
pub enum SliceError {
    /// Only a whole model can be sliced: ranks count heads and neurons of the dense model.
    #[error("the model has already been sliced")]
    NotWhole,
    /// The ranking is not of this model.
    #[error("the ranking does not rank every head and neuron of the model exactly once")]
    Ranking,
    /// The structure is not of this model.
    #[error("the chosen structure does not fit the model: {0}")]
    Structure(ConfigError),
    /// The tensors are not those of the model.
    #[error(transparent)]
    Tensors(Mismatch),
}

/// The model of `structure`: the best heads and neurons of `vit` by `ranking`, in their first
/// order, as tensors of the smaller shapes. Dropped modules leave nothing behind, gates of the
/// others stay. The new model shares no storage with `vit`.
///
/// # Errors
/// A model, ranking or structure that do not belong together.
pub fn slice(vit: &Vit, ranking: &Ranking, structure: &Structure) -> Result<Vit, SliceError> {
    let tensors = vit
        .parameters()
        .into_iter()
        .map(|param| (param.name, param.tensor.detach()))
        .collect();
    slice_tensors(vit.config(), &tensors, ranking, structure, vit.device())
}

/// As [`slice()`], of named tensors: a moving average of the weights has no model of its own.
///
/// # Errors
/// As [`slice()`], and tensors that are not those of `config`.
pub fn slice_tensors(
    config: &Config,
    tensors: &Tensors,
    ranking: &Ranking,
    structure: &Structure,
    device: Device,
) -> Result<Vit, SliceError> {
    let dims = &config.dims;
    if config.structure != Structure::full(dims) {
        return Err(SliceError::NotWhole);
    }
    if !ranking.fits(dims) {
        return Err(SliceError::Ranking);
    }
    let config = Config {
        structure: structure.clone(),
        ..config.clone()
    };
    let sliced = Vit::blank(config, device).map_err(SliceError::Structure)?;
    let mut kept: Tensors = tensors
        .iter()
        .map(|(name, tensor)| (name.clone(), tensor.shallow_clone()))
        .collect();
    for (l, block) in structure.blocks.iter().enumerate() {
        let cut = Cut {
            tensors: &mut kept,
            block: l,
        };
        cut.attn(&ranking.heads[l], block.heads, dims.head_dim());
        let cut = Cut {
            tensors: &mut kept,
            block: l,
        };
        cut.ffn(&ranking.neurons[l], block.neurons);
    }
    sliced.load(&kept).map_err(SliceError::Tensors)?;
    Ok(sliced)
}

/// Cuts the tensors of one block.
struct Cut<'a> {
    tensors: &'a mut Tensors,
    block: usize,
}

impl Cut<'_> {
    fn attn(mut self, order: &[i64], heads: i64, head_dim: i64) {
        if heads == 0 {
            return self.drop_parts(["norm1.", "attn.", "ls1.", "gate_attn."]);
        }
        let channels: Vec<i64> = best(order, heads)
            .iter()
            .flat_map(|head| head * head_dim..(head + 1) * head_dim)
            .collect();
        let all = order.len() as i64 * head_dim;
        let qkv: Vec<i64> = (0..3)
            .flat_map(|part| channels.iter().map(move |channel| part * all + channel))
            .collect();
        self.select("attn.qkv.weight", 0, &qkv);
        self.select("attn.qkv.bias", 0, &qkv);
        self.select("attn.proj.weight", 1, &channels);
    }

    fn ffn(mut self, order: &[i64], neurons: i64) {
        if neurons == 0 {
            return self.drop_parts(["norm2.", "mlp.", "ls2.", "gate_ffn."]);
        }
        let neurons = best(order, neurons);
        self.select("mlp.fc1.weight", 0, &neurons);
        self.select("mlp.fc1.bias", 0, &neurons);
        self.select("mlp.fc2.weight", 1, &neurons);
    }

    fn select(&mut self, name: &str, dim: i64, index: &[i64]) {
        if let Some(tensor) = self
            .tensors
            .get_mut(&format!("blocks.{}.{name}", self.block))
        {
            let index = Tensor::from_slice(index).to_device(tensor.device());
            *tensor = tensor.index_select(dim, &index);
        }
    }

    fn drop_parts(&mut self, parts: [&str; 4]) {
        let block = format!("blocks.{}.", self.block);
        self.tensors.retain(|name, _| {
            let part = name.strip_prefix(&block);
            part.is_none_or(|part| !parts.iter().any(|dropped| part.starts_with(dropped)))
        });
    }
}

/// The first `count` of `order`, in their first order.
fn best(order: &[i64], count: i64) -> Vec<i64> {
    let mut kept = order[..count as usize].to_vec();
    kept.sort_unstable();
    kept
}
