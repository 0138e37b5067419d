use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::{Dims, Vit};

/// Heads and neurons of each block in order of importance, the most important first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ranking {
    /// L permutations of 0..H.
    pub heads: Vec<Vec<i64>>,
    /// L permutations of 0..n.
    pub neurons: Vec<Vec<i64>>,
}

impl Ranking {
    /// Every head and neuron in its own place.
    pub fn identity(dims: &Dims) -> Self {
        let blocks = 0..dims.depth;
        Self {
            heads: blocks.clone().map(|_| (0..dims.heads).collect()).collect(),
            neurons: blocks.map(|_| (0..dims.ffn).collect()).collect(),
        }
    }

    /// By the L2 norm of the columns of `attn.proj` (heads) and `mlp.fc2` (neurons) that read them;
    /// equals keep their order. LayerScale counts as part of the columns. A dropped module has an empty ranking. [inferred, from UVC]
    pub fn by_norm(vit: &Vit) -> Self {
        let head_dim = vit.config().dims.head_dim();
        let blocks = &vit.blocks;
        Self {
            heads: blocks
                .iter()
                .map(|block| {
                    block.attn.as_ref().map_or_else(Vec::new, |attn| {
                        let weight_OI = scaled_rows(&attn.module.proj.weight_OI, &attn.scale_D);
                        order_of_columns(&weight_OI, head_dim)
                    })
                })
                .collect(),
            neurons: blocks
                .iter()
                .map(|block| {
                    block.ffn.as_ref().map_or_else(Vec::new, |ffn| {
                        let weight_OI = scaled_rows(&ffn.module.fc2.weight_OI, &ffn.scale_D);
                        order_of_columns(&weight_OI, 1)
                    })
                })
                .collect(),
        }
    }

    /// Whether this ranks every head and neuron of `dims` exactly once.
    pub fn fits(&self, dims: &Dims) -> bool {
        let permutes = |order: &Vec<i64>, size: i64| {
            let mut sorted = order.clone();
            sorted.sort_unstable();
            sorted.into_iter().eq(0..size)
        };
        let all = |orders: &[Vec<i64>], size| {
            orders.len() as i64 == dims.depth && orders.iter().all(|order| permutes(order, size))
        };
        all(&self.heads, dims.heads) && all(&self.neurons, dims.ffn)
    }
}

/// The weight with LayerScale's factors in it: what a column really adds to the residual stream.
fn scaled_rows(weight_OI: &Tensor, scale_O: &Option<Tensor>) -> Tensor {
    match scale_O {
        Some(scale_O) => weight_OI * scale_O.unsqueeze(1),
        None => weight_OI.shallow_clone(),
    }
}

/// Groups of `width` adjacent columns of `weight_OI`, largest norm first.
fn order_of_columns(weight_OI: &Tensor, width: i64) -> Vec<i64> {
    let squares = weight_OI
        .detach()
        .square()
        .reshape([weight_OI.size()[0], -1, width])
        .sum_dim_intlist([0, 2].as_slice(), false, Kind::Double);
    order(&squares)
}

/// Items by falling score; equals keep their order.
pub(crate) fn order(scores: &Tensor) -> Vec<i64> {
    let scores: Vec<f64> = scores
        .to_kind(Kind::Double)
        .iter::<f64>()
        .unwrap_or_else(|error| panic!("a vector of f64 was just made: {error}"))
        .collect();
    let mut order: Vec<i64> = (0..scores.len() as i64).collect();
    order.sort_by(|&a, &b| scores[b as usize].total_cmp(&scores[a as usize]));
    order
}

/// Where each item stands in its row's ranking: the inverse permutations, [L, items].
pub(crate) fn positions(orders: &[Vec<i64>]) -> Tensor {
    let rows: Vec<Tensor> = orders
        .iter()
        .map(|order| {
            let mut position = vec![0_i64; order.len()];
            for (rank, &item) in order.iter().enumerate() {
                position[item as usize] = rank as i64;
            }
            Tensor::from_slice(&position)
        })
        .collect();
    Tensor::stack(&rows, 0)
}
