use espalier_config::BlockStructure;

use crate::ExportError;
use crate::graph::{Branch, Dim, Value};
use crate::model::{Decide, Exporter};

/// A module of a block, MHSA or FFN: how its parameters are named, and how it is built.
struct Module {
    norm: &'static str,
    layer_scale: &'static str,
    name: &'static str,
    gate: &'static str,
    build: Build,
    /// Heads or neurons that stay; 0 when the module is dropped.
    size: i64,
}

type Build = fn(&mut Exporter<'_>, &Value<f32>, i64) -> Result<Value<f32>, ExportError>;

impl Exporter<'_> {
    /// x <- x + u_attn * MHSA(LN(x))
    /// x <- x + u_ffn  * FFN(LN(x))
    ///
    /// Both gates look at the block's input. `x_BND` [B, N, D] -> [B, N, D].
    pub(crate) fn block(
        &mut self,
        x_BND: Value<f32>,
        structure: &BlockStructure,
    ) -> Result<Value<f32>, ExportError> {
        let modules = [
            Module {
                norm: "norm1",
                layer_scale: "ls1",
                name: "attn",
                gate: "gate_attn",
                build: |this, x, heads| this.attention(x, heads),
                size: structure.heads,
            },
            Module {
                norm: "norm2",
                layer_scale: "ls2",
                name: "mlp",
                gate: "gate_ffn",
                build: |this, x, neurons| this.ffn(x, neurons),
                size: structure.neurons,
            },
        ];
        let mut decisions = Vec::with_capacity(modules.len());
        for module in &modules {
            decisions.push(self.decision(module, &x_BND)?);
        }
        let mut x_BND = x_BND;
        for (module, decision) in modules.iter().zip(&decisions) {
            if module.size > 0 {
                x_BND = self.residual(module, decision.as_ref(), &x_BND)?;
            }
        }
        self.decisions.extend(decisions);
        Ok(x_BND)
    }

    /// Whether the module runs; none where nothing decides.
    fn decision(
        &mut self,
        module: &Module,
        x_BND: &Value<f32>,
    ) -> Result<Option<Value<bool>>, ExportError> {
        match self.config.gate {
            Some(gate) if module.size > 0 => self.decide(module.gate, &gate, x_BND).map(Some),
            _ => Ok(None),
        }
    }

    /// x + u * module(LN(x)).
    fn residual(
        &mut self,
        module: &Module,
        decision: Option<&Value<bool>>,
        x_BND: &Value<f32>,
    ) -> Result<Value<f32>, ExportError> {
        match (decision, self.decide) {
            (None, _) => {
                let y_BND = self.module(module, x_BND)?;
                Ok(self.graph.add(x_BND, &y_BND))
            }
            (Some(keep), Decide::Shared) => {
                let run = self.branch(module, "run", |this| {
                    let y_BND = this.module(module, x_BND)?;
                    Ok(this.graph.add(x_BND, &y_BND))
                })?;
                let skip = self.branch(module, "skip", |this| Ok(this.graph.identity(x_BND)))?;
                Ok(self.graph.choose(keep, run, skip))
            }
            (Some(keep_B), Decide::PerSample) => {
                let y_BND = self.module(module, x_BND)?;
                let u_B = self.graph.number(keep_B);
                let u_B11 = self.graph.reshape(&u_B, &[-1, 1, 1]);
                let kept_BND = self.graph.mul(&u_B11, &y_BND);
                Ok(self.graph.add(x_BND, &kept_BND))
            }
        }
    }

    fn branch(
        &mut self,
        module: &Module,
        name: &str,
        build: impl FnOnce(&mut Self) -> Result<Value<f32>, ExportError>,
    ) -> Result<Branch, ExportError> {
        let dims = self.config.dims;
        let shape = [
            Dim::Batch,
            Dim::Fixed(dims.tokens()),
            Dim::Fixed(dims.width),
        ];
        let outer = self.graph.begin_branch();
        let result_BND = build(self)?;
        let name = format!("{}.{name}", module.name);
        Ok(self.graph.end_branch(outer, &name, &result_BND, &shape))
    }

    /// The module behind its norm, scaled by LayerScale where there is one.
    fn module(&mut self, module: &Module, x_BND: &Value<f32>) -> Result<Value<f32>, ExportError> {
        let dims = self.config.dims;
        let (width, eps) = (dims.width, dims.architecture.norm_eps);
        let normed_BND = self.layer_norm(module.norm, x_BND, width, eps)?;
        let y_BND = self.scope(module.name, |this| {
            (module.build)(this, &normed_BND, module.size)
        })?;
        if dims.architecture.layer_scale.is_none() {
            return Ok(y_BND);
        }
        self.scope(module.layer_scale, |this| {
            let scale_D = this.parameter("gamma", &[width])?;
            Ok(this.graph.mul(&y_BND, &scale_D))
        })
    }
}
