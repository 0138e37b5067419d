use espalier_job::ResourceForm;
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
    /// Form of the term. [inferred: the square]
    pub form: ResourceForm,
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

/// A mean of each module's over the whole batch, as of its gate: [M], f64.
///
/// The value is `global_M`, the gradient flows through `sum_M`, the sum over this micro-batch's
/// samples alone. L_res is not linear, so its slope must be taken at the global mean; with it the sum of
/// the micro-batches' gradients is the gradient of the whole batch, whoever ran them. [ours]
pub fn global_mean_M(sum_M: &Tensor, global_M: &Tensor, samples: f64) -> Tensor {
    let part_M = sum_M.to_kind(Kind::Double) / samples;
    global_M.to_kind(Kind::Double).detach() + (&part_M - part_M.detach())
}

/// gamma * L_res, L_res = form(F/F_full - F_t), and as much again for F_s.
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
    let above = |ratio: &Tensor, target: f64| form(budget.form, &(ratio - target));
    let total = above(&ratio, budget.target);
    let residual = match budget.static_target {
        Some(target) => total + above(&static_ratio, target),
        None => total,
    };
    Resource {
        loss: residual * budget.gamma,
        ratio: ratio.double_value(&[]),
        static_ratio: static_ratio.double_value(&[]),
    }
}

fn form(form: ResourceForm, above: &Tensor) -> Tensor {
    match form {
        ResourceForm::Square => above.square(),
        ResourceForm::Abs => above.abs(),
        ResourceForm::Hinge => above.relu(),
    }
}

/// `tensor` in f64, its gradient times `share`.
fn shared(tensor: &Tensor, share: f64) -> Tensor {
    let tensor = tensor.to_kind(Kind::Double);
    tensor.detach() + (&tensor - tensor.detach()) * share
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_and_their_slopes() {
        let cases = [
            (ResourceForm::Square, [0.04, 0.09], [0.4, -0.6]),
            (ResourceForm::Abs, [0.2, 0.3], [1.0, -1.0]),
            (ResourceForm::Hinge, [0.2, 0.0], [1.0, 0.0]),
        ];
        for (kind, values, slopes) in cases {
            for ((above, value), slope) in [0.2, -0.3].into_iter().zip(values).zip(slopes) {
                let above = Tensor::from(above).set_requires_grad(true);
                let result = form(kind, &above);
                result.backward();
                assert!((result.double_value(&[]) - value).abs() < 1e-12, "{kind:?}");
                let found = above.grad().double_value(&[]);
                assert!((found - slope).abs() < 1e-12, "{kind:?}: {found}");
            }
        }
    }
}
