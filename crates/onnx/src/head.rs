use crate::ExportError;
use crate::graph::Value;
use crate::model::Exporter;

impl Exporter<'_> {
    /// Class scores of the last block's tokens: [B, N, D] -> [B, K]. Where the distillation token has
    /// a head, the mean of both.
    pub(crate) fn classify(&mut self, x_BND: &Value<f32>) -> Result<Value<f32>, ExportError> {
        let cls_BK = self.read("head", x_BND, 0)?;
        if !self.config.dims.architecture.distilled.has_head() {
            return Ok(cls_BK);
        }
        let dist_BK = self.read("head_dist", x_BND, 1)?;
        let graph = &mut self.graph;
        let sum_BK = graph.add(&cls_BK, &dist_BK);
        let two = graph.scalar(2.0);
        Ok(graph.div(&sum_BK, &two))
    }

    /// The scores that `head` reads from one token; the norm works token by token.
    fn read(
        &mut self,
        head: &str,
        x_BND: &Value<f32>,
        token: i64,
    ) -> Result<Value<f32>, ExportError> {
        let dims = self.config.dims;
        let (width, eps) = (dims.width, dims.architecture.norm_eps);
        let token_BD = self.graph.select(x_BND, 1, token);
        let normed_BD = self.layer_norm("norm", &token_BD, width, eps)?;
        self.linear(head, &normed_BD, [dims.classes, width])
    }
}
