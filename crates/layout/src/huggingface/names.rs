use super::family::Family;

/// What a name of theirs is for us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ours {
    /// The whole tensor of this name.
    Whole(String),
    /// Queries (0), keys (1) or values (2) of this name: we keep the three as one, in this order.
    Part(String, usize),
    /// Needed for other than classification.
    Unused,
    /// Not a name of theirs.
    Unknown,
}

/// A part of a block: its names in a ViT's or DeiT's file, in a DINOv2's, and, since version 5, in memory;
/// and ours.
const BLOCK: [[&str; 4]; 7] = [
    [
        "attention.output.dense",
        "attention.output.dense",
        "attention.o_proj",
        "attn.proj",
    ],
    ["intermediate.dense", "mlp.fc1", "mlp.fc1", "mlp.fc1"],
    ["output.dense", "mlp.fc2", "mlp.fc2", "mlp.fc2"],
    ["layernorm_before", "norm1", "norm1", "norm1"],
    ["layernorm_after", "norm2", "norm2", "norm2"],
    [
        "layer_scale1.lambda1",
        "layer_scale1.lambda1",
        "layer_scale1.lambda1",
        "ls1.gamma",
    ],
    [
        "layer_scale2.lambda1",
        "layer_scale2.lambda1",
        "layer_scale2.lambda1",
        "ls2.gamma",
    ],
];

/// Queries, keys and values in a file, and in memory.
const QKV: [[&str; 2]; 3] = [
    ["attention.attention.query", "attention.q_proj"],
    ["attention.attention.key", "attention.k_proj"],
    ["attention.attention.value", "attention.v_proj"],
];

/// Theirs and ours, before and after the blocks.
const OUTSIDE: [(&str, &str); 5] = [
    ("embeddings.cls_token", "cls_token"),
    ("embeddings.distillation_token", "dist_token"),
    ("embeddings.position_embeddings", "pos_embed"),
    ("embeddings.patch_embeddings.projection", "patch_embed.proj"),
    ("layernorm", "norm"),
];

/// Theirs and ours: the heads, which stand outside of the base model.
const HEADS: [(&str, &str); 3] = [
    ("classifier", "head"),
    ("cls_classifier", "head"),
    ("distillation_classifier", "head_dist"),
];

/// What classifies nothing: the pooled token of pre-training, and DINOv2's token for masked patches.
const UNUSED: [&str; 2] = ["pooler.", "embeddings.mask_token"];

/// Where blocks are, in files and, since version 5, in memory.
const BLOCKS: [&str; 2] = ["encoder.layer.", "layers."];

/// What we call their `name`.
pub fn ours(name: &str) -> Ours {
    let bases = Family::ALL.map(Family::base);
    let inside = bases.iter().find_map(|base| name.strip_prefix(base));
    let inside = inside.unwrap_or(name);
    if UNUSED.iter().any(|unused| inside.starts_with(unused)) {
        return Ours::Unused;
    }
    let block = BLOCKS.iter().find_map(|blocks| inside.strip_prefix(blocks));
    if let Some((block, inner)) = block.and_then(|rest| rest.split_once('.')) {
        return of_block(block, inner);
    }
    let mut outside = OUTSIDE.iter().chain(&HEADS);
    let found = outside.find_map(|(theirs, ours)| renamed(inside, theirs, ours));
    found.map_or(Ours::Unknown, Ours::Whole)
}

fn of_block(block: &str, inner: &str) -> Ours {
    let qkv = format!("blocks.{block}.attn.qkv");
    for (part, names) in QKV.iter().enumerate() {
        let found = names.iter().find_map(|theirs| renamed(inner, theirs, &qkv));
        if let Some(name) = found {
            return Ours::Part(name, part);
        }
    }
    let found = BLOCK.iter().find_map(|[vit, dinov2, memory, ours]| {
        let ours = format!("blocks.{block}.{ours}");
        let mut names = [vit, dinov2, memory].into_iter();
        names.find_map(|theirs| renamed(inner, theirs, &ours))
    });
    found.map_or(Ours::Unknown, Ours::Whole)
}

/// What a file of `family` calls our `name`; three names where it keeps queries, keys and values apart.
pub(super) fn theirs(family: Family, name: &str) -> Option<Vec<String>> {
    if let Some((block, inner)) = name
        .strip_prefix("blocks.")
        .and_then(|rest| rest.split_once('.'))
    {
        let at = format!("{}encoder.layer.{block}.", family.base());
        let qkv = QKV
            .iter()
            .map(|[file, _]| renamed(inner, "attn.qkv", &format!("{at}{file}")));
        if let Some(parts) = qkv.collect::<Option<Vec<_>>>() {
            return Some(parts);
        }
        let found = BLOCK.iter().find_map(|[vit, dinov2, _, ours]| {
            let theirs = if family == Family::Dinov2 {
                dinov2
            } else {
                vit
            };
            renamed(inner, ours, &format!("{at}{theirs}"))
        });
        return found.map(|name| vec![name]);
    }
    let head = family
        .heads()
        .iter()
        .find_map(|(theirs, ours)| renamed(name, ours, theirs));
    let outside = || {
        OUTSIDE
            .iter()
            .find_map(|(theirs, ours)| renamed(name, ours, &format!("{}{theirs}", family.base())))
    };
    head.or_else(outside).map(|name| vec![name])
}

/// `name` with `to` for `from`, when nothing or one more part follows it.
fn renamed(name: &str, from: &str, to: &str) -> Option<String> {
    let rest = name.strip_prefix(from)?;
    let one_part = rest.starts_with('.') && !rest[1..].contains('.');
    (rest.is_empty() || one_part).then(|| format!("{to}{rest}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(name: &str) -> Ours {
        Ours::Whole(name.to_owned())
    }

    #[test]
    fn names_of_files_and_of_memory_are_known() {
        for (theirs, expected) in [
            ("vit.embeddings.cls_token", whole("cls_token")),
            ("embeddings.position_embeddings", whole("pos_embed")),
            ("deit.layernorm.bias", whole("norm.bias")),
            ("cls_classifier.weight", whole("head.weight")),
            (
                "vit.layers.3.attention.o_proj.weight",
                whole("blocks.3.attn.proj.weight"),
            ),
            ("vit.layers.3.mlp.fc1.bias", whole("blocks.3.mlp.fc1.bias")),
            (
                "vit.layers.1.attention.k_proj.bias",
                Ours::Part("blocks.1.attn.qkv.bias".to_owned(), 1),
            ),
            ("vit.pooler.dense.weight", Ours::Unused),
            ("dinov2.embeddings.mask_token", Ours::Unused),
            ("vit.encoder.layer.1.output.dense.more.bias", Ours::Unknown),
            ("layernormal.bias", Ours::Unknown),
        ] {
            assert_eq!(ours(theirs), expected, "{theirs}");
        }
    }

    #[test]
    fn every_name_comes_back() {
        let names = [
            "cls_token",
            "pos_embed",
            "patch_embed.proj.weight",
            "blocks.11.norm1.weight",
            "blocks.11.attn.proj.bias",
            "blocks.0.norm2.bias",
            "blocks.0.mlp.fc1.weight",
            "blocks.0.mlp.fc2.bias",
            "norm.weight",
            "head.bias",
        ];
        for family in Family::ALL {
            for name in names {
                let theirs = theirs(family, name).unwrap();
                assert_eq!(theirs.len(), 1);
                assert_eq!(ours(&theirs[0]), whole(name), "{family:?}");
            }
            let parts = theirs(family, "blocks.2.attn.qkv.weight").unwrap();
            let back: Vec<Ours> = parts.iter().map(|part| ours(part)).collect();
            let part = |part| Ours::Part("blocks.2.attn.qkv.weight".to_owned(), part);
            assert_eq!(back, [part(0), part(1), part(2)]);
            assert_eq!(theirs(family, "blocks.0.gate_attn.fc1.weight"), None);
        }
        let gamma = theirs(Family::Dinov2, "blocks.1.ls2.gamma").unwrap();
        assert_eq!(gamma, ["dinov2.encoder.layer.1.layer_scale2.lambda1"]);
        let head_dist = theirs(Family::DeitWithTeacher, "head_dist.bias").unwrap();
        assert_eq!(head_dist, ["distillation_classifier.bias"]);
    }
}
