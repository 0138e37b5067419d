use espalier_job::{Architecture, Distilled};

/// A class of models that classify images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    Vit,
    Deit,
    DeitWithTeacher,
    Dinov2,
}

impl Family {
    pub(super) const ALL: [Self; 4] = [Self::Vit, Self::Deit, Self::DeitWithTeacher, Self::Dinov2];

    /// The family that has this architecture; `None` for a distillation token with LayerScale.
    pub(super) fn of(architecture: &Architecture) -> Option<Self> {
        match (architecture.distilled, architecture.layer_scale) {
            (Distilled::None, None) => Some(Self::Vit),
            (Distilled::None, Some(_)) => Some(Self::Dinov2),
            (Distilled::Token, None) => Some(Self::Deit),
            (Distilled::TokenAndHead, None) => Some(Self::DeitWithTeacher),
            (Distilled::Token | Distilled::TokenAndHead, Some(_)) => None,
        }
    }

    /// Name of the class.
    pub(super) fn class(self) -> &'static str {
        match self {
            Self::Vit => "ViTForImageClassification",
            Self::Deit => "DeiTForImageClassification",
            Self::DeitWithTeacher => "DeiTForImageClassificationWithTeacher",
            Self::Dinov2 => "Dinov2ForImageClassification",
        }
    }

    /// Name of the kind of model.
    pub(super) fn model_type(self) -> &'static str {
        match self {
            Self::Vit => "vit",
            Self::Deit | Self::DeitWithTeacher => "deit",
            Self::Dinov2 => "dinov2",
        }
    }

    /// What precedes the names of all tensors but those of the heads.
    pub(super) fn base(self) -> &'static str {
        match self {
            Self::Vit => "vit.",
            Self::Deit | Self::DeitWithTeacher => "deit.",
            Self::Dinov2 => "dinov2.",
        }
    }

    /// Theirs and ours.
    pub(super) fn heads(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Vit | Self::Deit | Self::Dinov2 => &[("classifier", "head")],
            Self::DeitWithTeacher => &[
                ("cls_classifier", "head"),
                ("distillation_classifier", "head_dist"),
            ],
        }
    }
}
