use tch::Tensor;

use crate::Dims;
use crate::init::Init;
use crate::layers::{DECAYED, Linear};
use crate::masks::ModuleMask;
use crate::param::Collector;

/// Feed-forward network of n neurons.
#[derive(Debug)]
pub(crate) struct Ffn {
    /// [n, D]
    pub(crate) fc1: Linear,
    /// [D, n]
    pub(crate) fc2: Linear,
}

impl Ffn {
    pub(crate) fn new(init: &mut Init, dims: &Dims, neurons: i64) -> Self {
        Self {
            fc1: Linear::new(init, dims.width, neurons),
            fc2: Linear::new(init, neurons, dims.width),
        }
    }

    /// FFN_neuronmask of `x_BND` -> [B, N, D], times p[keep] where there is a mask.
    pub(crate) fn forward(&self, x_BND: &Tensor, mask: Option<&ModuleMask>) -> Tensor {
        let y_BNn = self.fc1.forward(x_BND).gelu("none");
        self.fc2.forward_masked(&y_BNn, mask)
    }

    pub(crate) fn collect(&self, into: &mut Collector) {
        into.scope("fc1", |into| self.fc1.collect(into, DECAYED));
        into.scope("fc2", |into| self.fc2.collect(into, DECAYED));
    }
}
