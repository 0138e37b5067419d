//! The layout of `ViTForImageClassification`, `DeiTForImageClassification(WithTeacher)` and
//! `Dinov2ForImageClassification` of Hugging Face's transformers.

use std::collections::BTreeMap;

use tch::Tensor;

use crate::Tensors;

/// Names of the base models, which precede all names but those of the heads.
pub(crate) const BASES: [&str; 3] = ["vit.", "deit.", "dinov2."];

/// Theirs and ours, outside of the blocks.
pub(crate) const OUTER: [(&str, &str); 8] = [
    ("embeddings.cls_token", "cls_token"),
    ("embeddings.distillation_token", "dist_token"),
    ("embeddings.position_embeddings", "pos_embed"),
    ("embeddings.patch_embeddings.projection", "patch_embed.proj"),
    ("layernorm", "norm"),
    ("classifier", "head"),
    ("cls_classifier", "head"),
    ("distillation_classifier", "head_dist"),
];

/// What classifies nothing: the pooled token of pre-training, and DINOv2's token for masked patches.
const UNUSED: [&str; 2] = ["pooler.", "embeddings.mask_token"];

/// Where blocks are, in files and, since version 5, in memory.
const BLOCKS: [&str; 2] = ["encoder.layer.", "layers."];

/// Theirs and ours, inside a block; where two are ours, the first is that of a ViT's or DeiT's file.
pub(crate) const INNER: [(&str, &str); 12] = [
    ("attention.output.dense", "attn.proj"),
    ("attention.o_proj", "attn.proj"),
    ("intermediate.dense", "mlp.fc1"),
    ("output.dense", "mlp.fc2"),
    ("layernorm_before", "norm1"),
    ("layernorm_after", "norm2"),
    ("mlp.fc1", "mlp.fc1"),
    ("mlp.fc2", "mlp.fc2"),
    ("norm1", "norm1"),
    ("norm2", "norm2"),
    ("layer_scale1.lambda1", "ls1.gamma"),
    ("layer_scale2.lambda1", "ls2.gamma"),
];

/// Queries, keys and values, which we keep as one.
pub(crate) const QKV: [[&str; 2]; 3] = [
    ["attention.attention.query", "attention.q_proj"],
    ["attention.attention.key", "attention.k_proj"],
    ["attention.attention.value", "attention.v_proj"],
];

/// What a name of theirs is for us.
#[derive(Debug, PartialEq)]
enum Ours {
    Whole(String),
    /// Queries (0), keys (1) or values (2) of this name.
    Part(String, usize),
    Unused,
    Unknown,
}

/// Whether the names are of this layout.
pub(crate) fn is_layout_of(tensors: &Tensors) -> bool {
    let patches = "embeddings.patch_embeddings.projection.weight";
    tensors.keys().any(|name| name.ends_with(patches))
}

/// The tensors under our names. One that has none keeps its own, so that loading reports it; so do
/// queries, keys and values that are not all there.
pub(crate) fn ours(tensors: Tensors) -> Tensors {
    let mut renamed = Tensors::new();
    let mut parts: BTreeMap<String, [Option<(String, Tensor)>; 3]> = BTreeMap::new();
    for (name, tensor) in tensors {
        match translate(&name) {
            Ours::Whole(ours) => drop(renamed.insert(ours, tensor)),
            Ours::Part(ours, part) => parts.entry(ours).or_default()[part] = Some((name, tensor)),
            Ours::Unknown => drop(renamed.insert(name, tensor)),
            Ours::Unused => {}
        }
    }
    for (ours, parts) in parts {
        match &parts {
            [Some((_, q)), Some((_, k)), Some((_, v))]
                if q.size()[1..] == k.size()[1..] && q.size()[1..] == v.size()[1..] =>
            {
                renamed.insert(ours, Tensor::cat(&[q, k, v], 0));
            }
            _ => renamed.extend(parts.into_iter().flatten()),
        }
    }
    renamed
}

fn translate(name: &str) -> Ours {
    let inside = BASES.iter().find_map(|base| name.strip_prefix(base));
    let inside = inside.unwrap_or(name);
    if UNUSED.iter().any(|unused| inside.starts_with(unused)) {
        return Ours::Unused;
    }
    let block = BLOCKS.iter().find_map(|blocks| inside.strip_prefix(blocks));
    if let Some((block, inner)) = block.and_then(|rest| rest.split_once('.')) {
        let part = QKV.iter().enumerate().find_map(|(part, theirs)| {
            let mut theirs = theirs.iter();
            theirs.find_map(|theirs| Some((part, leaf(inner, theirs)?)))
        });
        if let Some((part, leaf)) = part {
            return Ours::Part(format!("blocks.{block}.attn.qkv{leaf}"), part);
        }
        let found = lookup(&INNER, inner);
        return found.map_or(Ours::Unknown, |ours| {
            Ours::Whole(format!("blocks.{block}.{ours}"))
        });
    }
    lookup(&OUTER, inside).map_or(Ours::Unknown, Ours::Whole)
}

fn lookup(table: &[(&str, &str)], name: &str) -> Option<String> {
    table
        .iter()
        .find_map(|(theirs, ours)| Some(format!("{ours}{}", leaf(name, theirs)?)))
}

/// What follows `stem` in `name`: nothing, or a dot and one more part.
fn leaf<'a>(name: &'a str, stem: &str) -> Option<&'a str> {
    let rest = name.strip_prefix(stem)?;
    let one_part = rest.starts_with('.') && !rest[1..].contains('.');
    (rest.is_empty() || one_part).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_files_and_of_memory_are_known() {
        let whole = |name: &str| Ours::Whole(name.to_owned());
        for (theirs, ours) in [
            ("vit.embeddings.cls_token", whole("cls_token")),
            ("embeddings.position_embeddings", whole("pos_embed")),
            ("deit.layernorm.bias", whole("norm.bias")),
            ("cls_classifier.weight", whole("head.weight")),
            ("distillation_classifier.bias", whole("head_dist.bias")),
            (
                "vit.encoder.layer.10.output.dense.bias",
                whole("blocks.10.mlp.fc2.bias"),
            ),
            (
                "vit.layers.3.attention.o_proj.weight",
                whole("blocks.3.attn.proj.weight"),
            ),
            (
                "dinov2.encoder.layer.0.layer_scale2.lambda1",
                whole("blocks.0.ls2.gamma"),
            ),
            (
                "vit.encoder.layer.1.attention.attention.key.bias",
                Ours::Part("blocks.1.attn.qkv.bias".to_owned(), 1),
            ),
            ("vit.pooler.dense.weight", Ours::Unused),
            ("vit.encoder.layer.1.output.dense.more.bias", Ours::Unknown),
            ("layernormal.bias", Ours::Unknown),
        ] {
            assert_eq!(translate(theirs), ours, "{theirs}");
        }
    }
}
