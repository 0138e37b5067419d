//! What turns an image into tokens.

use espalier_job::Stem as Kind;
use tch::Tensor;

use self::patch::PatchEmbed;
use self::t2t::TokensToToken;
use crate::Dims;
use crate::init::Init;
use crate::layers::INIT_STD;
use crate::param::{Collector, ParamKind};

mod patch;
mod performer;
mod sinusoid;
mod t2t;

/// Embeds the patches, puts the class token and perhaps the distillation token before them, and adds
/// where each stands.
#[derive(Debug)]
pub(crate) struct Stem {
    patches: Patches,
    /// [1, 1, D]
    cls_token: Tensor,
    /// [1, 1, D]
    dist_token: Option<Tensor>,
    /// [1, N, D]
    pos_embed: Tensor,
}

/// From the image to one token a patch.
#[derive(Debug)]
enum Patches {
    Patch(PatchEmbed),
    T2t(Box<TokensToToken>),
}

impl Stem {
    pub(crate) fn new(init: &mut Init, dims: &Dims) -> Self {
        let width = dims.width;
        let kind = dims.architecture.stem;
        let patches = match kind {
            Kind::Patch => Patches::Patch(PatchEmbed::new(init, dims)),
            Kind::T2t => Patches::T2t(Box::new(TokensToToken::new(init, dims))),
        };
        let mut token = || init.trunc_normal(&[1, 1, width], INIT_STD);
        let cls_token = token();
        let dist_token = (dims.prefix() > 1).then(token);
        let shape = [1, dims.tokens(), width];
        Self {
            patches,
            cls_token,
            dist_token,
            pos_embed: match kind {
                Kind::Patch => init.trunc_normal(&shape, INIT_STD),
                Kind::T2t => init.frozen(&sinusoid::table(dims.tokens(), width), &shape),
            },
        }
    }

    /// `x_BCHW` -> [B, N, D]: the prefix, then the patches row by row.
    pub(crate) fn forward(&self, x_BCHW: &Tensor) -> Tensor {
        let patches = match &self.patches {
            Patches::Patch(embed) => embed.forward(x_BCHW),
            Patches::T2t(embed) => embed.forward(x_BCHW),
        };
        let batch = patches.size()[0];
        let prefix = [Some(&self.cls_token), self.dist_token.as_ref()];
        let mut tokens: Vec<Tensor> = prefix
            .into_iter()
            .flatten()
            .map(|token| token.expand([batch, -1, -1], false))
            .collect();
        tokens.push(patches);
        Tensor::cat(&tokens, 1) + &self.pos_embed
    }

    pub(crate) fn collect(&self, into: &mut Collector) {
        let undecayed = ParamKind::Weight { decay: false };
        into.add("cls_token", &self.cls_token, undecayed);
        if let Some(dist_token) = &self.dist_token {
            into.add("dist_token", dist_token, undecayed);
        }
        match &self.patches {
            Patches::Patch(embed) => {
                into.add("pos_embed", &self.pos_embed, undecayed);
                into.scope("patch_embed", |into| embed.collect(into));
            }
            Patches::T2t(embed) => {
                into.add("pos_embed", &self.pos_embed, ParamKind::Frozen);
                into.scope("tokens_to_token", |into| embed.collect(into));
            }
        }
    }

    /// MACs of one image.
    pub(crate) fn macs(dims: &Dims) -> i64 {
        match dims.architecture.stem {
            Kind::Patch => PatchEmbed::macs(dims),
            Kind::T2t => TokensToToken::macs(dims),
        }
    }

    /// Learnable parameters.
    pub(crate) fn params(dims: &Dims) -> i64 {
        let prefix = dims.prefix() * dims.width;
        match dims.architecture.stem {
            Kind::Patch => prefix + PatchEmbed::params(dims) + dims.tokens() * dims.width,
            Kind::T2t => prefix + TokensToToken::params(dims),
        }
    }
}
