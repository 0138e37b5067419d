use tch::{Kind, Tensor};

use crate::cost::{Cost, Sizes};

/// What the resource term holds the model to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Budget {
    /// F_t: total MACs over those of the dense model.
    pub target: f64,
    /// F_s: MACs with every gate open over those of the dense model; a term of its own. [ours]
    pub static_target: Option<f64>,
    /// Weight of the term. [paper]
    pub gamma: f64,
}

/// The resource term of one micro-batch.
#[derive(Debug)]
pub struct Resource {
    /// gamma * L_res: an f64 scalar whose value is that of the whole batch and whose gradient is this
    /// micro-batch's part.
    pub loss: Tensor,
    /// F / F_full, gates as they are in the whole batch.
    pub ratio: f64,
    /// F / F_full with every gate open.
    pub static_ratio: f64,
}

/// Each module's mean gate over the whole batch: [M], f64.
///
/// The value is `global_M`, the gradient flows through `open_M`, the sum over this micro-batch's
/// samples alone. L_res is not linear, so its slope must be taken at the global mean; with it the sum of
/// the micro-batches' gradients is the gradient of the whole batch, whoever ran them. [ours]
pub fn global_mean_M(open_M: &Tensor, global_M: &Tensor, samples: f64) -> Tensor {
    let part_M = open_M.to_kind(Kind::Double) / samples;
    global_M.to_kind(Kind::Double).detach() + (&part_M - part_M.detach())
}

/// gamma * L_res, L_res = (F/F_full - F_t)^2 [inferred: the square], and as much again for F_s.
///
/// `mean_M` is of [`global_mean_M`]. `share` is this micro-batch's share in the samples of the
/// batch: the gradient of `sizes`, which every micro-batch computes from the same alpha, counts by it.
pub fn resource_loss(
    cost: &Cost,
    sizes: &Sizes,
    mean_M: &Tensor,
    budget: &Budget,
    share: f64,
) -> Resource {
    let sizes = Sizes {
        keep_attn_L: shared(&sizes.keep_attn_L, share),
        keep_ffn_L: shared(&sizes.keep_ffn_L, share),
        heads_L: shared(&sizes.heads_L, share),
        neurons_L: shared(&sizes.neurons_L, share),
    };
    let ratio = cost.soft(&sizes, mean_M) / cost.dense();
    let static_ratio = cost.soft(&sizes, &mean_M.ones_like()) / cost.dense();
    let mut residual = (&ratio - budget.target).square();
    if let Some(target) = budget.static_target {
        residual += (&static_ratio - target).square();
    }
    Resource {
        loss: residual * budget.gamma,
        ratio: ratio.double_value(&[]),
        static_ratio: static_ratio.double_value(&[]),
    }
}

/// `tensor` in f64, its gradient times `share`.
fn shared(tensor: &Tensor, share: f64) -> Tensor {
    let tensor = tensor.to_kind(Kind::Double);
    tensor.detach() + (&tensor - tensor.detach()) * share
}
