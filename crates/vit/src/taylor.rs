//! First-order Taylor importance of heads and neurons (arXiv 1906.10771). [ours: as an option]
//!
//! ```text
//! I_j = sum over steps of |sum of w * dL/dw over the columns that read j|
//! ```
//!
//! The inner sum is how much L changes, to first order, when j is masked. It is taken of the gradient of
//! the global batch, so that it depends on neither the number of workers nor the cut into micro-batches.

use tch::{Device, Kind, Tensor, no_grad};

use crate::ranking::order;
use crate::{Dims, Ranking, Vit};

/// The sums since the last ranking.
#[derive(Debug)]
pub(crate) struct Taylor {
    /// Of each head, f32 [L, H].
    pub(crate) heads_LH: Tensor,
    /// Of each neuron, f32 [L, n].
    pub(crate) neurons_Ln: Tensor,
}

impl Taylor {
    pub(crate) fn new(dims: &Dims, device: Device) -> Self {
        let zeros = |items| Tensor::zeros([dims.depth, items], (Kind::Float, device));
        Self {
            heads_LH: zeros(dims.heads),
            neurons_Ln: zeros(dims.ffn),
        }
    }

    /// Adds a step of a whole model. `gradient` of a parameter's name, in its shape; none that is not
    /// trained.
    pub(crate) fn add(&mut self, vit: &Vit, gradient: impl Fn(&str) -> Option<Tensor>) {
        let head_dim = vit.config().dims.head_dim();
        no_grad(|| {
            for (l, block) in vit.blocks.iter().enumerate() {
                let attn = block.attn.as_ref().map(|attn| &attn.module.proj.weight_OI);
                let ffn = block.ffn.as_ref().map(|ffn| &ffn.module.fc2.weight_OI);
                for (name, weight_OI, width, sums) in [
                    ("attn.proj", attn, head_dim, &self.heads_LH),
                    ("mlp.fc2", ffn, 1, &self.neurons_Ln),
                ] {
                    let name = format!("blocks.{l}.{name}.weight");
                    if let Some((weight_OI, gradient_OI)) = weight_OI.zip(gradient(&name)) {
                        let mut row = sums.get(l as i64);
                        row += change(weight_OI, &gradient_OI, width);
                    }
                }
            }
        });
    }

    /// The ranking of the sums, which start anew; none before the first step.
    pub(crate) fn take(&mut self) -> Option<Ranking> {
        let seen = self.heads_LH.sum(Kind::Double) + self.neurons_Ln.sum(Kind::Double);
        if seen.double_value(&[]) == 0.0 {
            return None;
        }
        let rows = |sums: &Tensor| (0..sums.size()[0]).map(|l| order(&sums.get(l))).collect();
        let ranking = Ranking {
            heads: rows(&self.heads_LH),
            neurons: rows(&self.neurons_Ln),
        };
        let _ = self.heads_LH.zero_();
        let _ = self.neurons_Ln.zero_();
        Some(ranking)
    }
}

/// |sum of w * dL/dw| over groups of `width` adjacent columns: [O, I] -> [I / width].
fn change(weight_OI: &Tensor, gradient_OI: &Tensor, width: i64) -> Tensor {
    (weight_OI.to_kind(Kind::Double) * gradient_OI.to_kind(Kind::Double))
        .reshape([weight_OI.size()[0], -1, width])
        .sum_dim_intlist([0, 2].as_slice(), false, Kind::Double)
        .abs()
        .to_kind(Kind::Float)
}
