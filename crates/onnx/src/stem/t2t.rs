use super::performer::WIDTH;
use crate::ExportError;
use crate::graph::Value;
use crate::model::Exporter;
use crate::ops::Window;

/// (kernel, stride, padding) of the three splits into overlapping tokens.
const SPLITS: [(i64, i64, i64); 3] = [(7, 4, 2), (3, 2, 1), (3, 2, 1)];

impl Exporter<'_> {
    /// The Tokens-to-Token stem: [B, C, side, side] -> [B, patches, D], row by row.
    pub(super) fn tokens_to_token(
        &mut self,
        x_BCHW: &Value<f32>,
    ) -> Result<Value<f32>, ExportError> {
        let dims = self.config.dims;
        let [first, second, third] = SPLITS;
        self.scope("tokens_to_token", |this| {
            // The picking kernels grow with the channels, which must not be what a file only claims.
            let inputs = dims.channels * first.0 * first.0;
            this.transposed("attention1.kqv.weight", [3 * WIDTH, inputs])?;
            let (tokens_BTi, inputs) = this.split(x_BCHW, dims.channels, first);
            let x_BTe = this.performer("attention1", &tokens_BTi, inputs)?;
            let image = this.image(&x_BTe, dims.image_size / 4);
            let (tokens_BTi, inputs) = this.split(&image, WIDTH, second);
            let x_BTe = this.performer("attention2", &tokens_BTi, inputs)?;
            let image = this.image(&x_BTe, dims.image_size / 8);
            let (tokens_BTi, inputs) = this.split(&image, WIDTH, third);
            this.linear("project", &tokens_BTi, [dims.width, inputs])
        })
    }

    /// Cuts an image into overlapping tokens, each all values of a square window: [B, C, side, side]
    /// -> [B, T, i]; gives i as well.
    ///
    /// ONNX has no such operator. A convolution of each channel alone whose kernels pick one value of
    /// the window each gives the same tokens.
    fn split(
        &mut self,
        x_BCHW: &Value<f32>,
        channels: i64,
        (kernel, stride, padding): (i64, i64, i64),
    ) -> (Value<f32>, i64) {
        let picked = (kernel * kernel) as usize;
        let one_channel = (0..picked)
            .flat_map(|kernel| (0..picked).map(move |at| f32::from(u8::from(at == kernel))))
            .flat_map(f32::to_le_bytes)
            .collect::<Vec<u8>>();
        let bytes = one_channel.repeat(channels as usize);
        let shape = [
            picked * channels as usize,
            1,
            kernel as usize,
            kernel as usize,
        ];
        let name = format!("constant.pick.{channels}x{kernel}x{kernel}");
        let weight = self.graph.initializer(name, &shape, bytes);
        let window = Window {
            kernel,
            stride,
            padding,
            groups: channels,
        };
        let grid = self.graph.conv(x_BCHW, &weight, None, window);
        let tokens_BiT = self.graph.reshape(&grid, &[0, 0, -1]);
        let tokens_BTi = self.graph.transpose(&tokens_BiT, &[0, 2, 1]);
        (tokens_BTi, channels * kernel * kernel)
    }

    /// Tokens back in their places: [B, T, e] -> [B, e, side, side].
    fn image(&mut self, x_BTe: &Value<f32>, side: i64) -> Value<f32> {
        let x_BeT = self.graph.transpose(x_BTe, &[0, 2, 1]);
        self.graph.reshape(&x_BeT, &[0, 0, side, side])
    }
}
