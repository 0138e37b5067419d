use std::collections::BTreeMap;

use espalier_layout::huggingface::{Ours, ours};
use tch::Tensor;

use crate::Tensors;

/// Whether the names are Hugging Face's.
pub(super) fn is_layout_of(tensors: &Tensors) -> bool {
    let patches = "embeddings.patch_embeddings.projection.weight";
    tensors.keys().any(|name| name.ends_with(patches))
}

/// The tensors under our names. One that has none keeps its own, so that loading reports it; so do
/// queries, keys and values that are not all there.
pub(super) fn renamed(tensors: Tensors) -> Tensors {
    let mut renamed = Tensors::new();
    let mut parts: BTreeMap<String, [Option<(String, Tensor)>; 3]> = BTreeMap::new();
    for (name, tensor) in tensors {
        match ours(&name) {
            Ours::Whole(ours) => drop(renamed.insert(ours, tensor)),
            Ours::Part(ours, part) => parts.entry(ours).or_default()[part] = Some((name, tensor)),
            Ours::Unknown => drop(renamed.insert(name, tensor)),
            Ours::Unused => {}
        }
    }
    for (ours, parts) in parts {
        match &parts {
            [Some((_, q)), Some((_, k)), Some((_, v))] if alike(q, k) && alike(q, v) => {
                renamed.insert(ours, Tensor::cat(&[q, k, v], 0));
            }
            _ => renamed.extend(parts.into_iter().flatten()),
        }
    }
    renamed
}

/// Whether the rows of two tensors can stand below one another.
fn alike(a: &Tensor, b: &Tensor) -> bool {
    let (a, b) = (a.size(), b.size());
    !a.is_empty() && a.get(1..) == b.get(1..)
}
