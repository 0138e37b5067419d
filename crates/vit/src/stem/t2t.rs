use tch::Tensor;

use super::performer::{Performer, WIDTH};
use crate::Dims;
use crate::init::Init;
use crate::layers::{DECAYED, Linear};
use crate::param::Collector;

/// The Tokens-to-Token stem of T2T-ViT (arXiv 2101.11986): tokens overlap, so that what is near in
/// the image is told from what is far before the blocks see it.
#[derive(Debug)]
pub(super) struct TokensToToken {
    attention1: Performer,
    attention2: Performer,
    project: Linear,
}

/// How an image is cut into overlapping tokens: all values of a square of `kernel` by `kernel`.
struct Split {
    kernel: i64,
    stride: i64,
    padding: i64,
}

const SPLITS: [Split; 3] = [
    Split {
        kernel: 7,
        stride: 4,
        padding: 2,
    },
    Split {
        kernel: 3,
        stride: 2,
        padding: 1,
    },
    Split {
        kernel: 3,
        stride: 2,
        padding: 1,
    },
];

impl TokensToToken {
    pub(super) fn new(init: &mut Init, dims: &Dims) -> Self {
        let [first, second, third] = inputs(dims);
        Self {
            attention1: Performer::new(init, first),
            attention2: Performer::new(init, second),
            project: Linear::new(init, third, dims.width),
        }
    }

    /// `x_BCHW` -> [B, H W / 256, D], row by row.
    pub(super) fn forward(&self, x_BCHW: &Tensor) -> Tensor {
        let [first, second, third] = &SPLITS;
        let x_BTe = self.attention1.forward(&first.tokens(x_BCHW));
        let x_BTe = self.attention2.forward(&second.tokens(&image(&x_BTe)));
        self.project.forward(&third.tokens(&image(&x_BTe)))
    }

    pub(super) fn collect(&self, into: &mut Collector) {
        into.scope("attention1", |into| self.attention1.collect(into));
        into.scope("attention2", |into| self.attention2.collect(into));
        into.scope("project", |into| self.project.collect(into, DECAYED));
    }

    pub(super) fn macs(dims: &Dims) -> i64 {
        let [first, second, third] = inputs(dims);
        let tokens = |stride: i64| (dims.image_size / stride).pow(2);
        Performer::macs(tokens(4), first)
            + Performer::macs(tokens(8), second)
            + tokens(16) * third * dims.width
    }

    pub(super) fn params(dims: &Dims) -> i64 {
        let [first, second, third] = inputs(dims);
        Performer::params(first) + Performer::params(second) + third * dims.width + dims.width
    }
}

impl Split {
    /// [B, C, side, side] -> [B, T, C kernel kernel].
    fn tokens(&self, x_BCHW: &Tensor) -> Tensor {
        let square = |value| [value, value];
        let x_BiT = x_BCHW.im2col(
            square(self.kernel),
            square(1),
            square(self.padding),
            square(self.stride),
        );
        x_BiT.transpose(1, 2)
    }
}

/// Width of a token after each split.
fn inputs(dims: &Dims) -> [i64; 3] {
    let channels = [dims.channels, WIDTH, WIDTH];
    [0, 1, 2].map(|split| channels[split] * SPLITS[split].kernel.pow(2))
}

/// Tokens back in their places: [B, T, e] -> [B, e, side, side].
fn image(x_BTe: &Tensor) -> Tensor {
    let (batch, tokens, width) = x_BTe
        .size3()
        .unwrap_or_else(|error| panic!("tokens have the three dimensions of [B, T, e]: {error}"));
    let side = tokens.isqrt();
    x_BTe.transpose(1, 2).reshape([batch, width, side, side])
}
