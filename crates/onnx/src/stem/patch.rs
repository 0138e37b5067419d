use crate::ExportError;
use crate::graph::Value;
use crate::model::Exporter;
use crate::ops::Window;

impl Exporter<'_> {
    /// Embeds each patch: [B, C, side, side] -> [B, patches, D], row by row.
    pub(super) fn patch_embed(&mut self, x_BCHW: &Value<f32>) -> Result<Value<f32>, ExportError> {
        let dims = self.config.dims;
        let patch = dims.patch_size;
        self.scope("patch_embed.proj", |this| {
            let weight = this.parameter("weight", &[dims.width, dims.channels, patch, patch])?;
            let bias_D = this.parameter("bias", &[dims.width])?;
            let window = Window {
                kernel: patch,
                stride: patch,
                padding: 0,
                groups: 1,
            };
            let grid = this.graph.conv(x_BCHW, &weight, Some(&bias_D), window);
            let patches_BDN = this.graph.reshape(&grid, &[0, 0, -1]);
            Ok(this.graph.transpose(&patches_BDN, &[0, 2, 1]))
        })
    }
}
