use tch::Tensor;

use crate::Sizes;

/// A sample of the static choices, as factors in [0, 1] that let gradients reach alpha.
#[derive(Debug)]
pub struct Masks {
    /// Factor of each head's output before `attn.proj`, [L, H].
    pub heads_LH: Tensor,
    /// Factor of each neuron after GELU, [L, n].
    pub neurons_Ln: Tensor,
    /// p[keep] of the modules and the expected sizes: what the resource term counts.
    pub sizes: Sizes,
    /// `sizes.keep_attn_L` times `heads_LH`, spread over the D = H d channels that `attn.proj` reads.
    pub(crate) attn_LD: Tensor,
    /// `sizes.keep_ffn_L` times `neurons_Ln`.
    pub(crate) ffn_Ln: Tensor,
}

/// The mask of one module.
pub(crate) struct ModuleMask {
    /// p[keep]: a scalar.
    pub(crate) keep: Tensor,
    /// p[keep] times the factor of each channel that the module's last layer reads.
    pub(crate) channels: Tensor,
}

impl Masks {
    /// Masks of [L, H] heads of width `head_dim` and [L, n] neurons.
    pub(crate) fn new(heads_LH: Tensor, neurons_Ln: Tensor, sizes: Sizes, head_dim: i64) -> Self {
        let heads_LD = heads_LH.repeat_interleave_self_int(head_dim, 1, None);
        Self {
            attn_LD: sizes.keep_attn_L.unsqueeze(1) * heads_LD,
            ffn_Ln: sizes.keep_ffn_L.unsqueeze(1) * &neurons_Ln,
            heads_LH,
            neurons_Ln,
            sizes,
        }
    }

    pub(crate) fn attn(&self, block: i64) -> ModuleMask {
        ModuleMask {
            keep: self.sizes.keep_attn_L.get(block),
            channels: self.attn_LD.get(block),
        }
    }

    pub(crate) fn ffn(&self, block: i64) -> ModuleMask {
        ModuleMask {
            keep: self.sizes.keep_ffn_L.get(block),
            channels: self.ffn_Ln.get(block),
        }
    }
}
