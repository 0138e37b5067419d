use espalier_job::QkScale;

use crate::ExportError;
use crate::graph::Value;
use crate::model::Exporter;

impl Exporter<'_> {
    /// MHSA of h heads, softmax(q k^T s) v: [B, N, D] -> [B, N, D].
    pub(crate) fn attention(
        &mut self,
        x_BND: &Value<f32>,
        heads: i64,
    ) -> Result<Value<f32>, ExportError> {
        let dims = self.config.dims;
        let (width, head_dim) = (dims.width, dims.head_dim());
        let inner = heads * head_dim;
        // Queries of all heads, then keys, then values.
        let qkv_shape = [3 * inner, width];
        let qkv_BNi = if dims.architecture.qkv_bias {
            self.linear("qkv", x_BND, qkv_shape)?
        } else {
            self.linear_without_bias("qkv", x_BND, qkv_shape)?
        };
        let scaled_by = match dims.architecture.qk_scale {
            QkScale::Head => head_dim,
            QkScale::Width => width,
        };
        let graph = &mut self.graph;
        let [query, key, value] = [0, 1, 2].map(|part| {
            let part_BNi = graph.columns(&qkv_BNi, part * inner, (part + 1) * inner);
            graph.reshape(&part_BNi, &[0, 0, heads, head_dim])
        });
        let query_BhNd = graph.transpose(&query, &[0, 2, 1, 3]);
        let key_BhdN = graph.transpose(&key, &[0, 2, 3, 1]);
        let value_BhNd = graph.transpose(&value, &[0, 2, 1, 3]);

        let scores_BhNN = graph.matmul(&query_BhNd, &key_BhdN);
        let scale = graph.scalar((scaled_by as f64).powf(-0.5) as f32);
        let scores_BhNN = graph.mul(&scores_BhNN, &scale);
        let weights_BhNN = graph.softmax(&scores_BhNN);
        let y_BhNd = graph.matmul(&weights_BhNN, &value_BhNd);

        let y_BNhd = graph.transpose(&y_BhNd, &[0, 2, 1, 3]);
        let y_BNi = graph.reshape(&y_BNhd, &[0, 0, inner]);
        self.linear("proj", &y_BNi, [width, inner])
    }
}
