use crate::ExportError;
use crate::graph::Value;
use crate::model::Exporter;
use crate::weights::transposed;

impl Exporter<'_> {
    /// Builds below `name`, which is both the scope of the graph's names and of the parameters'.
    pub(crate) fn scope<R>(&mut self, name: &str, build: impl FnOnce(&mut Self) -> R) -> R {
        self.graph.enter(name);
        let built = build(self);
        self.graph.leave();
        built
    }

    /// Parameter `name` of the scope, as it is in the checkpoint.
    pub(crate) fn parameter(
        &mut self,
        name: &str,
        shape: &[i64],
    ) -> Result<Value<f32>, ExportError> {
        let name = self.graph.path(name);
        let shape = sizes(shape);
        let bytes = self.weights.take(&name, &shape)?;
        Ok(self.graph.initializer(name, &shape, bytes))
    }

    /// y = W x + b: `x` [.., inputs] -> [.., outputs].
    pub(crate) fn linear(
        &mut self,
        name: &str,
        x: &Value<f32>,
        [outputs, inputs]: [i64; 2],
    ) -> Result<Value<f32>, ExportError> {
        let product = self.linear_without_bias(name, x, [outputs, inputs])?;
        self.scope(name, |this| {
            let bias_O = this.parameter("bias", &[outputs])?;
            Ok(this.graph.add(&product, &bias_O))
        })
    }

    /// y = W x: `x` [.., inputs] -> [.., outputs].
    pub(crate) fn linear_without_bias(
        &mut self,
        name: &str,
        x: &Value<f32>,
        shape: [i64; 2],
    ) -> Result<Value<f32>, ExportError> {
        self.scope(name, |this| {
            let weight_IO = this.transposed("weight", shape)?;
            Ok(this.graph.matmul(x, &weight_IO))
        })
    }

    /// Matrix `name` of the scope, turned: MatMul has no flag for that.
    pub(crate) fn transposed(
        &mut self,
        name: &str,
        shape: [i64; 2],
    ) -> Result<Value<f32>, ExportError> {
        let name = self.graph.path(name);
        let shape = sizes(&shape);
        let bytes = self.weights.take(&name, &shape)?;
        let turned = transposed(&bytes, shape[0], shape[1]);
        let shape = [shape[1], shape[0]];
        Ok(self
            .graph
            .initializer(format!("{name}.transposed"), &shape, turned))
    }

    /// Layer normalisation over the last axis: `x` [.., width] -> [.., width].
    pub(crate) fn layer_norm(
        &mut self,
        name: &str,
        x: &Value<f32>,
        width: i64,
        epsilon: f64,
    ) -> Result<Value<f32>, ExportError> {
        self.scope(name, |this| {
            let weight = this.parameter("weight", &[width])?;
            let bias = this.parameter("bias", &[width])?;
            Ok(this.graph.layer_norm(x, &weight, &bias, epsilon as f32))
        })
    }

    /// x Phi(x) with the exact Phi: x (1 + erf(x / sqrt 2)) / 2.
    pub(crate) fn gelu(&mut self, x: &Value<f32>) -> Value<f32> {
        let graph = &mut self.graph;
        let (sqrt_2, one, half) = (
            graph.scalar(std::f32::consts::SQRT_2),
            graph.scalar(1.0),
            graph.scalar(0.5),
        );
        let scaled = graph.div(x, &sqrt_2);
        let erf = graph.erf(&scaled);
        let twice_phi = graph.add(&erf, &one);
        let twice = graph.mul(x, &twice_phi);
        graph.mul(&twice, &half)
    }
}

/// A shape of a checked configuration: sizes are positive.
fn sizes(shape: &[i64]) -> Vec<usize> {
    shape.iter().map(|&size| size as usize).collect()
}
