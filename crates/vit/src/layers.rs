use tch::{Kind, Tensor};

use crate::init::Init;
use crate::masks::ModuleMask;
use crate::param::{Collector, ParamKind};

/// Spread of the first weights of linear layers and embeddings, as in DeiT.
pub(crate) const INIT_STD: f64 = 0.02;

/// y = W x + b.
#[derive(Debug)]
pub(crate) struct Linear {
    pub(crate) weight_OI: Tensor,
    pub(crate) bias_O: Option<Tensor>,
}

impl Linear {
    pub(crate) fn new(init: &mut Init, inputs: i64, outputs: i64) -> Self {
        Self {
            weight_OI: init.trunc_normal(&[outputs, inputs], INIT_STD),
            bias_O: Some(init.constant(&[outputs], 0.0)),
        }
    }

    pub(crate) fn without_bias(init: &mut Init, inputs: i64, outputs: i64) -> Self {
        Self {
            weight_OI: init.trunc_normal(&[outputs, inputs], INIT_STD),
            bias_O: None,
        }
    }

    /// `x` [.., inputs] -> [.., outputs], of the weight's kind.
    pub(crate) fn forward(&self, x: &Tensor) -> Tensor {
        x.to_kind(self.weight_OI.kind())
            .linear(&self.weight_OI, self.bias_O.as_ref())
    }

    /// Rounds the layer to `kind`; it is no longer learnable.
    pub(crate) fn convert(&mut self, kind: Kind) {
        self.weight_OI = self.weight_OI.detach().to_kind(kind);
        self.bias_O = self
            .bias_O
            .as_ref()
            .map(|bias_O| bias_O.detach().to_kind(kind));
    }

    /// p[keep] (W (m x) + b). The factors go into the weights, [O, I] and [O], because those are
    /// far smaller than the activations; the product is the same.
    pub(crate) fn forward_masked(&self, x: &Tensor, mask: Option<&ModuleMask>) -> Tensor {
        let Some(mask) = mask else {
            return self.forward(x);
        };
        let weight_OI = &self.weight_OI * &mask.channels;
        let bias_O = self.bias_O.as_ref().map(|bias_O| bias_O * &mask.keep);
        x.linear(&weight_OI, bias_O.as_ref())
    }

    pub(crate) fn collect(&self, into: &mut Collector, [weight, bias]: [ParamKind; 2]) {
        into.add("weight", &self.weight_OI, weight);
        if let Some(bias_O) = &self.bias_O {
            into.add("bias", bias_O, bias);
        }
    }
}

/// Kinds of the weight and the bias of a transformer's linear layer.
pub(crate) const DECAYED: [ParamKind; 2] = [
    ParamKind::Weight { decay: true },
    ParamKind::Weight { decay: false },
];

/// Kinds of the weight and the bias of a transformer's norm.
pub(crate) const UNDECAYED: [ParamKind; 2] = [ParamKind::Weight { decay: false }; 2];

/// Layer normalisation over the width.
#[derive(Debug)]
pub(crate) struct LayerNorm {
    pub(crate) weight_D: Tensor,
    pub(crate) bias_D: Tensor,
    eps: f64,
}

impl LayerNorm {
    pub(crate) fn new(init: &Init, width: i64, eps: f64) -> Self {
        Self {
            eps,
            weight_D: init.constant(&[width], 1.0),
            bias_D: init.constant(&[width], 0.0),
        }
    }

    /// `x` [.., D] -> [.., D].
    pub(crate) fn forward(&self, x: &Tensor) -> Tensor {
        x.layer_norm(
            self.weight_D.size(),
            Some(&self.weight_D),
            Some(&self.bias_D),
            self.eps,
            true,
        )
    }

    pub(crate) fn collect(&self, into: &mut Collector, [weight, bias]: [ParamKind; 2]) {
        into.add("weight", &self.weight_D, weight);
        into.add("bias", &self.bias_D, bias);
    }
}
