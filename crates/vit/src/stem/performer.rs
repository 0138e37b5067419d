use tch::Tensor;

use crate::init::Init;
use crate::layers::{DECAYED, LayerNorm, Linear, UNDECAYED};
use crate::param::{Collector, ParamKind};

/// e: width of a token inside the stem.
pub(super) const WIDTH: i64 = 64;

/// r: random features.
const FEATURES: i64 = 32;

/// Epsilon of the norms, PyTorch's own.
const NORM_EPS: f64 = 1e-5;

/// Keeps the division finite.
const EPS: f64 = 1e-8;

/// A transformer layer of one head whose attention is linear in the number of tokens: the softmax
/// kernel by positive random features (arXiv 2009.14794). Values, not the wider input, are the
/// residual.
#[derive(Debug)]
pub(super) struct Performer {
    norm1: LayerNorm,
    /// [3 e, i]: keys, then queries, then values.
    kqv: Linear,
    /// [r, e]: orthogonal directions; frozen.
    w_re: Tensor,
    proj: Linear,
    norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
}

impl Performer {
    /// For tokens of width `inputs`.
    pub(super) fn new(init: &mut Init, inputs: i64) -> Self {
        Self {
            norm1: LayerNorm::new(init, inputs, NORM_EPS),
            kqv: Linear::new(init, inputs, 3 * WIDTH),
            w_re: init.orthogonal(FEATURES, WIDTH, (FEATURES as f64).sqrt()),
            proj: Linear::new(init, WIDTH, WIDTH),
            norm2: LayerNorm::new(init, WIDTH, NORM_EPS),
            fc1: Linear::new(init, WIDTH, WIDTH),
            fc2: Linear::new(init, WIDTH, WIDTH),
        }
    }

    /// [B, T, i] -> [B, T, e].
    pub(super) fn forward(&self, x_BTi: &Tensor) -> Tensor {
        let x_BTe = self.attend(&self.norm1.forward(x_BTi));
        let y_BTe = self.fc1.forward(&self.norm2.forward(&x_BTe)).gelu("none");
        x_BTe + self.fc2.forward(&y_BTe)
    }

    /// v + W_proj (phi(q) (phi(k)^T v) / (phi(q) sum phi(k)))
    fn attend(&self, x_BTi: &Tensor) -> Tensor {
        let kqv = self.kqv.forward(x_BTi).chunk(3, -1);
        let (k_BTr, q_BTr) = (self.features(&kqv[0]), self.features(&kqv[1]));
        let v_BTe = &kqv[2];
        let sum_Br1 = k_BTr.sum_dim_intlist(1, false, None).unsqueeze(2);
        let weight_BT1 = q_BTr.matmul(&sum_Br1) + EPS;
        let kv_Bre = k_BTr.transpose(1, 2).matmul(v_BTe);
        let y_BTe = q_BTr.matmul(&kv_Bre) / weight_BT1;
        v_BTe + self.proj.forward(&y_BTe)
    }

    /// phi(x) = exp(W x - |x|^2 / 2) / sqrt(r): [B, T, e] -> [B, T, r].
    fn features(&self, x_BTe: &Tensor) -> Tensor {
        let half_BT1 = x_BTe.square().sum_dim_intlist(-1, true, None) / 2.0;
        let wx_BTr = x_BTe.matmul(&self.w_re.transpose(0, 1));
        (wx_BTr - half_BT1).exp() / (FEATURES as f64).sqrt()
    }

    pub(super) fn collect(&self, into: &mut Collector) {
        into.scope("norm1", |into| self.norm1.collect(into, UNDECAYED));
        into.scope("kqv", |into| self.kqv.collect(into, DECAYED));
        into.add("w", &self.w_re, ParamKind::Frozen);
        into.scope("proj", |into| self.proj.collect(into, DECAYED));
        into.scope("norm2", |into| self.norm2.collect(into, UNDECAYED));
        into.scope("mlp", |into| {
            into.scope("0", |into| self.fc1.collect(into, DECAYED));
            into.scope("2", |into| self.fc2.collect(into, DECAYED));
        });
    }

    /// MACs for `tokens` tokens: keys, queries and values; features of keys and queries; the sum and
    /// the two products of the attention; its projection; the FFN.
    pub(super) fn macs(tokens: i64, inputs: i64) -> i64 {
        let (wide, features) = (WIDTH * WIDTH, WIDTH * FEATURES);
        let attention = FEATURES + 2 * features;
        tokens * (3 * inputs * WIDTH + 2 * features + attention + wide + 2 * wide)
    }

    /// Learnable parameters.
    pub(super) fn params(inputs: i64) -> i64 {
        let linear = |inputs: i64, outputs: i64| inputs * outputs + outputs;
        2 * inputs + linear(inputs, 3 * WIDTH) + 2 * WIDTH + 3 * linear(WIDTH, WIDTH)
    }
}
