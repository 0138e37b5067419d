use tch::Tensor;

use crate::attention::Attention;
use crate::ffn::Ffn;
use crate::gate::Gate;
use crate::init::Init;
use crate::layers::{LayerNorm, UNDECAYED};
use crate::param::{Collector, ParamKind};
use crate::routing::{Decider, Router};
use crate::{BlockStructure, Dims, GateConfig};

/// A pre-norm residual block; either module may have been dropped.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) attn: Option<Branch<Attention>>,
    pub(crate) ffn: Option<Branch<Ffn>>,
}

/// A module with its norm and, perhaps, its LayerScale and its gate.
#[derive(Debug)]
pub(crate) struct Branch<M> {
    pub(crate) norm: LayerNorm,
    pub(crate) module: M,
    /// LayerScale: a factor for each channel of the module's output.
    pub(crate) scale_D: Option<Tensor>,
    pub(crate) gate: Option<Gate>,
}

impl Block {
    pub(crate) fn new(init: &mut Init, dims: &Dims, structure: &BlockStructure) -> Self {
        let attn = (structure.heads > 0).then(|| Attention::new(init, dims, structure.heads));
        let ffn = (structure.neurons > 0).then(|| Ffn::new(init, dims, structure.neurons));
        Self {
            attn: attn.map(|module| Branch::new(init, dims, module)),
            ffn: ffn.map(|module| Branch::new(init, dims, module)),
        }
    }

    /// Puts a new gate before each module that is there.
    pub(crate) fn add_gates(&mut self, init: &mut Init, dims: &Dims, config: &GateConfig) {
        if let Some(attn) = &mut self.attn {
            attn.gate = Some(Gate::new(init, dims, config));
        }
        if let Some(ffn) = &mut self.ffn {
            ffn.gate = Some(Gate::new(init, dims, config));
        }
    }

    pub(crate) fn gates_mut(&mut self) -> impl Iterator<Item = &mut Gate> {
        let attn = self.attn.as_mut().and_then(|attn| attn.gate.as_mut());
        let ffn = self.ffn.as_mut().and_then(|ffn| ffn.gate.as_mut());
        attn.into_iter().chain(ffn)
    }

    /// x <- x + p_attn[keep] * u_attn[g(i)] * MHSA_headmask(LN(x))
    /// x <- x + p_ffn[keep]  * u_ffn[g(i)]  * FFN_neuronmask(LN(x))
    ///
    /// Both gates look at the block's input. `index` is the block's own.
    pub(crate) fn forward(&self, x_BND: Tensor, index: i64, router: &mut Router<'_>) -> Tensor {
        let attn_route = router.next(&decider(self.attn.as_ref()), &x_BND);
        let ffn_route = router.next(&decider(self.ffn.as_ref()), &x_BND);
        let masks = router.masks();
        let mut x_BND = x_BND;
        if let Some(attn) = &self.attn {
            let mask = masks.map(|masks| masks.attn(index));
            let module = |x: &Tensor| attn.module.forward(&attn.norm.forward(x), mask.as_ref());
            x_BND = attn_route.apply(x_BND, |x| attn.scaled(module(x)));
        }
        if let Some(ffn) = &self.ffn {
            let mask = masks.map(|masks| masks.ffn(index));
            let module = |x: &Tensor| ffn.module.forward(&ffn.norm.forward(x), mask.as_ref());
            x_BND = ffn_route.apply(x_BND, |x| ffn.scaled(module(x)));
        }
        x_BND
    }

    /// The weights, without the gates.
    pub(crate) fn collect(&self, into: &mut Collector) {
        if let Some(attn) = &self.attn {
            into.scope("norm1", |into| attn.norm.collect(into, UNDECAYED));
            into.scope("attn", |into| attn.module.collect(into));
            into.scope("ls1", |into| attn.collect_scale(into));
        }
        if let Some(ffn) = &self.ffn {
            into.scope("norm2", |into| ffn.norm.collect(into, UNDECAYED));
            into.scope("mlp", |into| ffn.module.collect(into));
            into.scope("ls2", |into| ffn.collect_scale(into));
        }
    }

    pub(crate) fn collect_gates(&self, into: &mut Collector) {
        if let Some(gate) = self.attn.as_ref().and_then(|attn| attn.gate.as_ref()) {
            into.scope("gate_attn", |into| gate.collect(into));
        }
        if let Some(gate) = self.ffn.as_ref().and_then(|ffn| ffn.gate.as_ref()) {
            into.scope("gate_ffn", |into| gate.collect(into));
        }
    }
}

impl<M> Branch<M> {
    fn new(init: &Init, dims: &Dims, module: M) -> Self {
        let architecture = &dims.architecture;
        Self {
            norm: LayerNorm::new(init, dims.width, architecture.norm_eps),
            module,
            scale_D: architecture
                .layer_scale
                .map(|first| init.constant(&[dims.width], first)),
            gate: None,
        }
    }

    /// The module's output `y_BND`, scaled by LayerScale.
    fn scaled(&self, y_BND: Tensor) -> Tensor {
        match &self.scale_D {
            Some(scale_D) => y_BND * scale_D,
            None => y_BND,
        }
    }

    fn collect_scale(&self, into: &mut Collector) {
        if let Some(scale_D) = &self.scale_D {
            into.add("gamma", scale_D, ParamKind::Weight { decay: false });
        }
    }
}

fn decider<M>(branch: Option<&Branch<M>>) -> Decider<'_> {
    match branch {
        None => Decider::Dropped,
        Some(Branch { gate: None, .. }) => Decider::Ungated,
        Some(Branch {
            gate: Some(gate), ..
        }) => Decider::Gated(gate),
    }
}
