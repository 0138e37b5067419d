use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Architecture, Dims, Distilled, QkScale, Stem};

/// Named sets of dimensions, for images of three channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Preset {
    /// DeiT-Ti: D 192, L 12, H 3, n 768, patch 16, image 224.
    DeitTiny,
    /// DeiT-S: D 384, L 12, H 6, n 1536, patch 16, image 224.
    DeitSmall,
    /// DeiT-B: D 768, L 12, H 12, n 3072, patch 16, image 224.
    DeitBase,
    /// DeiT-Ti with a distillation token and its head.
    DeitTinyDistilled,
    /// DeiT-S with a distillation token and its head.
    DeitSmallDistilled,
    /// DeiT-B with a distillation token and its head.
    DeitBaseDistilled,
    /// ViT-Ti/16, the AugReg weights of timm among them: as deit-tiny.
    VitTinyPatch16,
    /// ViT-S/16, the AugReg weights of timm among them: as deit-small.
    VitSmallPatch16,
    /// ViT-B/16, the AugReg weights of timm among them: as deit-base.
    VitBasePatch16,
    /// DINOv2 ViT-S/14: D 384, L 12, H 6, n 1536, patch 14, image 518, LayerScale. The released
    /// weights have no head: model.new_head.
    Dinov2Small,
    /// DINOv2 ViT-B/14: D 768, L 12, H 12, n 3072, patch 14, image 518, LayerScale. The released
    /// weights have no head: model.new_head.
    Dinov2Base,
    /// T2T-ViT-14 with performers: D 384, L 14, H 6, n 1152, image 224, scaled as the released weights.
    #[serde(rename = "t2t-vit-14")]
    T2tVit14,
    /// T2T-ViT-19 with performers: D 448, L 19, H 7, n 1344, image 224, scaled as the released weights.
    #[serde(rename = "t2t-vit-19")]
    T2tVit19,
    /// T2T-ViT-24 with performers: D 512, L 24, H 8, n 1536, image 224, scaled as the released weights.
    #[serde(rename = "t2t-vit-24")]
    T2tVit24,
}

impl Preset {
    /// The preset's dimensions, with `classes` classes.
    pub fn dims(self, classes: u32) -> Dims {
        let plain = Architecture::default();
        let distilled = Architecture {
            distilled: Distilled::TokenAndHead,
            ..plain
        };
        let (width, depth, ffn, architecture) = match self {
            Self::DeitTiny | Self::VitTinyPatch16 => (192, 12, 768, plain),
            Self::DeitSmall | Self::VitSmallPatch16 => (384, 12, 1536, plain),
            Self::DeitBase | Self::VitBasePatch16 => (768, 12, 3072, plain),
            Self::DeitTinyDistilled => (192, 12, 768, distilled),
            Self::DeitSmallDistilled => (384, 12, 1536, distilled),
            Self::DeitBaseDistilled => (768, 12, 3072, distilled),
            Self::Dinov2Small => return dinov2(384, 1536, classes),
            Self::Dinov2Base => return dinov2(768, 3072, classes),
            Self::T2tVit14 => (384, 14, 1152, T2T),
            Self::T2tVit19 => (448, 19, 1344, T2T),
            Self::T2tVit24 => (512, 24, 1536, T2T),
        };
        Dims {
            image_size: 224,
            patch_size: 16,
            channels: 3,
            classes,
            width,
            depth,
            heads: width / HEAD_DIM,
            ffn,
            architecture,
        }
    }
}

/// Width of a head in every preset.
const HEAD_DIM: u32 = 64;

/// T2T-ViT as its released weights want it, which is not how its code builds a new model: the scale
/// of queries and keys differs.
const T2T: Architecture = Architecture {
    stem: Stem::T2t,
    distilled: Distilled::None,
    layer_scale: None,
    qkv_bias: false,
    qk_scale: QkScale::Width,
    norm_eps: 1e-5,
};

fn dinov2(width: u32, ffn: u32, classes: u32) -> Dims {
    Dims {
        image_size: 518,
        patch_size: 14,
        channels: 3,
        classes,
        width,
        depth: 12,
        heads: width / HEAD_DIM,
        ffn,
        architecture: Architecture {
            layer_scale: Some(1e-5),
            ..Architecture::default()
        },
    }
}
