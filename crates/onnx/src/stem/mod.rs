//! What turns an image into tokens.

use espalier_job::Stem;

use crate::ExportError;
use crate::graph::Value;
use crate::model::Exporter;

mod patch;
mod performer;
mod t2t;

impl Exporter<'_> {
    /// Tokens of normalised pixels: [B, C, side, side] -> [B, N, D]. The CLS token and perhaps the
    /// distillation token come first.
    pub(crate) fn embed(&mut self, x_BCHW: &Value<f32>) -> Result<Value<f32>, ExportError> {
        let dims = self.config.dims;
        let patches_BND = match dims.architecture.stem {
            Stem::Patch => self.patch_embed(x_BCHW)?,
            Stem::T2t => self.tokens_to_token(x_BCHW)?,
        };
        let names = ["cls_token", "dist_token"];
        let mut tokens = Vec::with_capacity(names.len() + 1);
        for name in names.into_iter().take(dims.prefix() as usize) {
            let token = self.parameter(name, &[1, 1, dims.width])?;
            let batch_11 = self.graph.batch_by_ones(x_BCHW, 3);
            tokens.push(self.graph.expand(&token, &batch_11));
        }
        tokens.push(patches_BND);
        let tokens: Vec<&Value<f32>> = tokens.iter().collect();
        let tokens_BND = self.graph.concat(&tokens, 1);
        let pos_embed = self.parameter("pos_embed", &[1, dims.tokens(), dims.width])?;
        Ok(self.graph.add(&tokens_BND, &pos_embed))
    }
}
