use espalier_job::QkScale;
use tch::Tensor;

use crate::Dims;
use crate::init::Init;
use crate::layers::{DECAYED, Linear};
use crate::masks::ModuleMask;
use crate::param::Collector;

/// Multi-head self-attention of h heads of width d: any h up to H, so that h d may be below D.
#[derive(Debug)]
pub(crate) struct Attention {
    /// [3 h d, D]: queries of all heads, then keys, then values.
    pub(crate) qkv: Linear,
    /// [D, h d]
    pub(crate) proj: Linear,
    head_dim: i64,
    /// Factor of the products of queries and keys.
    scale: f64,
}

impl Attention {
    pub(crate) fn new(init: &mut Init, dims: &Dims, heads: i64) -> Self {
        let head_dim = dims.head_dim();
        let qkv = if dims.architecture.qkv_bias {
            Linear::new
        } else {
            Linear::without_bias
        };
        let scaled_by = match dims.architecture.qk_scale {
            QkScale::Head => head_dim,
            QkScale::Width => dims.width,
        };
        Self {
            qkv: qkv(init, dims.width, 3 * heads * head_dim),
            proj: Linear::new(init, heads * head_dim, dims.width),
            head_dim,
            scale: (scaled_by as f64).powf(-0.5),
        }
    }

    /// MHSA_headmask of `x_BND` -> [B, N, D], times p[keep] where there is a mask.
    pub(crate) fn forward(&self, x_BND: &Tensor, mask: Option<&ModuleMask>) -> Tensor {
        let tokens = x_BND.size()[1];
        let qkv_3BhNd = self
            .qkv
            .forward(x_BND)
            .reshape([-1, tokens, 3, self.heads(), self.head_dim])
            .permute([2, 0, 3, 1, 4]);
        let y_BhNd = Tensor::scaled_dot_product_attention(
            &qkv_3BhNd.get(0),
            &qkv_3BhNd.get(1),
            &qkv_3BhNd.get(2),
            None::<Tensor>,
            0.0,
            false,
            self.scale,
            false,
        );
        let y_BNi = y_BhNd.transpose(1, 2).flatten(2, -1);
        self.proj.forward_masked(&y_BNi, mask)
    }

    fn heads(&self) -> i64 {
        self.proj.weight_OI.size()[1] / self.head_dim
    }

    pub(crate) fn collect(&self, into: &mut Collector) {
        into.scope("qkv", |into| self.qkv.collect(into, DECAYED));
        into.scope("proj", |into| self.proj.collect(into, DECAYED));
    }
}
