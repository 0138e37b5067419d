use crate::ExportError;
use crate::graph::Value;
use crate::model::Exporter;

/// e: width of a token inside the stem.
pub(super) const WIDTH: i64 = 64;

/// r: random features.
const FEATURES: i64 = 32;

/// Epsilon of the norms, PyTorch's own.
const NORM_EPS: f64 = 1e-5;

/// Keeps the division finite.
const EPS: f32 = 1e-8;

impl Exporter<'_> {
    /// A transformer layer whose attention is linear in the number of tokens: [B, T, i] -> [B, T, e].
    pub(super) fn performer(
        &mut self,
        name: &str,
        x_BTi: &Value<f32>,
        inputs: i64,
    ) -> Result<Value<f32>, ExportError> {
        self.scope(name, |this| {
            let normed_BTi = this.layer_norm("norm1", x_BTi, inputs, NORM_EPS)?;
            let x_BTe = this.kernel_attention(&normed_BTi, inputs)?;
            let normed_BTe = this.layer_norm("norm2", &x_BTe, WIDTH, NORM_EPS)?;
            let hidden_BTe = this.linear("mlp.0", &normed_BTe, [WIDTH, WIDTH])?;
            let hidden_BTe = this.gelu(&hidden_BTe);
            let y_BTe = this.linear("mlp.2", &hidden_BTe, [WIDTH, WIDTH])?;
            Ok(this.graph.add(&x_BTe, &y_BTe))
        })
    }

    /// v + W_proj (phi(q) (phi(k)^T v) / (phi(q) sum phi(k)))
    fn kernel_attention(
        &mut self,
        x_BTi: &Value<f32>,
        inputs: i64,
    ) -> Result<Value<f32>, ExportError> {
        let kqv_BTe3 = self.linear("kqv", x_BTi, [3 * WIDTH, inputs])?;
        let [k_BTe, q_BTe, v_BTe] = [0, 1, 2].map(|part| {
            self.graph
                .columns(&kqv_BTe3, part * WIDTH, (part + 1) * WIDTH)
        });
        let w_er = self.transposed("w", [FEATURES, WIDTH])?;
        let k_BTr = self.features(&k_BTe, &w_er);
        let q_BTr = self.features(&q_BTe, &w_er);

        let graph = &mut self.graph;
        let k_BrT = graph.transpose(&k_BTr, &[0, 2, 1]);
        let sum_Br1 = graph.sum(&k_BrT, -1);
        let weight_BT1 = graph.matmul(&q_BTr, &sum_Br1);
        let eps = graph.scalar(EPS);
        let weight_BT1 = graph.add(&weight_BT1, &eps);
        let kv_Bre = graph.matmul(&k_BrT, &v_BTe);
        let y_BTe = graph.matmul(&q_BTr, &kv_Bre);
        let y_BTe = graph.div(&y_BTe, &weight_BT1);
        let y_BTe = self.linear("proj", &y_BTe, [WIDTH, WIDTH])?;
        Ok(self.graph.add(&v_BTe, &y_BTe))
    }

    /// phi(x) = exp(W x - |x|^2 / 2) / sqrt(r): [B, T, e] -> [B, T, r].
    fn features(&mut self, x_BTe: &Value<f32>, w_er: &Value<f32>) -> Value<f32> {
        let graph = &mut self.graph;
        let (two, root) = (graph.scalar(2.0), graph.scalar((FEATURES as f32).sqrt()));
        let square_BTe = graph.mul(x_BTe, x_BTe);
        let square_BT1 = graph.sum(&square_BTe, -1);
        let half_BT1 = graph.div(&square_BT1, &two);
        let wx_BTr = graph.matmul(x_BTe, w_er);
        let exponent_BTr = graph.sub(&wx_BTr, &half_BT1);
        let exp_BTr = graph.exp(&exponent_BTr);
        graph.div(&exp_BTr, &root)
    }
}
