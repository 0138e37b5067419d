use crate::ExportError;
use crate::graph::Value;
use crate::model::Exporter;

impl Exporter<'_> {
    /// FFN of n neurons: [B, N, D] -> [B, N, D].
    pub(crate) fn ffn(
        &mut self,
        x_BND: &Value<f32>,
        neurons: i64,
    ) -> Result<Value<f32>, ExportError> {
        let width = self.config.dims.width;
        let y_BNn = self.linear("fc1", x_BND, [neurons, width])?;
        let y_BNn = self.gelu(&y_BNn);
        self.linear("fc2", &y_BNn, [width, neurons])
    }
}
