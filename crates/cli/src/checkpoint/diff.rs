//! `espalier checkpoint diff`: what differs between two checkpoints.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::Context as _;
use espalier_registry::{Client, Digest, Pulled};
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};

use crate::args::{Global, Output};
use crate::connect;
use crate::exit::Failure;
use crate::output::{self, bytes, short};

/// The files that are looked into.
const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";

/// One side of the comparison.
struct Side {
    pulled: Pulled,
    config: Value,
    weights: Vec<u8>,
}

/// A line of a comparison: what, on the one side, on the other, and how they differ.
type Line = [String; 4];

pub(super) async fn run(global: &Global, a: &str, b: &str) -> Result<(), Failure> {
    let client = connect::checkpoints(global).await?;
    let dir = tempfile::tempdir().context("making a temporary folder")?;
    let a = side(&client, a, &dir.path().join("a")).await?;
    let b = side(&client, b, &dir.path().join("b")).await?;
    let files = files(&a.pulled, &b.pulled);
    let structure = values(&a.config, &b.config);
    let tensors = tensors(&a.weights, &b.weights)?;
    let card = |side: &Side| side.pulled.manifest.report.clone().unwrap_or_default();
    let report = values(&card(&a), &card(&b));
    let (a, b) = (&a.pulled.digest, &b.pulled.digest);
    match global.output {
        Output::Json => output::json(&json!({
            "a": a,
            "b": b,
            "files": objects(&files),
            "structure": objects(&structure),
            "tensors": objects(&tensors),
            "report": objects(&report),
        })),
        Output::Table => {
            let parts = [
                ("FILE", files),
                ("STRUCTURE", structure),
                ("TENSOR", tensors),
                ("REPORT CARD", report),
            ];
            let tables = parts.map(|(title, lines)| {
                if lines.is_empty() {
                    return format!("{title}: no difference");
                }
                let rows: Vec<Vec<String>> = lines.into_iter().map(Vec::from).collect();
                output::table(&[title, &short(a), &short(b), "CHANGE"], &rows)
            });
            output::text(&tables.join("\n\n"))
        }
    }
}

async fn side(client: &Client, reference: &str, dir: &Path) -> Result<Side, Failure> {
    let wanted = |path: &str| path == CONFIG || path == WEIGHTS;
    let pulled = client.pull_files(reference, dir, wanted, |_, _| {}).await?;
    let read = |file: &str| match std::fs::read(dir.join(file)) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other.with_context(|| format!("reading {file} of {reference}")),
    };
    let config = match read(CONFIG)?.as_slice() {
        [] => Value::Null,
        bytes => serde_json::from_slice(bytes)
            .with_context(|| format!("reading {CONFIG} of {reference}"))?,
    };
    Ok(Side {
        config,
        weights: read(WEIGHTS)?,
        pulled,
    })
}

/// Files that differ, and how much of them is in chunks that do.
fn files(a: &Pulled, b: &Pulled) -> Vec<Line> {
    let by_path = |pulled: &Pulled| -> BTreeMap<String, (u64, Vec<espalier_registry::ChunkId>)> {
        let files = pulled.manifest.files.iter();
        files
            .map(|file| (file.path.clone(), (file.size, file.chunks.clone())))
            .collect()
    };
    compare(
        by_path(a),
        by_path(b),
        |(size, _)| bytes(*size),
        |(_, a), (_, b)| {
            let known: BTreeSet<&Digest> = a.iter().map(|chunk| &chunk.digest).collect();
            let new = b.iter().filter(|chunk| !known.contains(&chunk.digest));
            format!(
                "{} in other chunks",
                bytes(new.map(|chunk| chunk.size).sum())
            )
        },
    )
}

/// Values of JSON documents that differ, by their paths.
fn values(a: &Value, b: &Value) -> Vec<Line> {
    compare(leaves(a), leaves(b), Value::to_string, |a, b| {
        match (a.as_f64(), b.as_f64()) {
            (Some(a), Some(b)) if a != 0.0 => format!("{:+.2}%", (b - a) / a.abs() * 100.0),
            (Some(a), Some(b)) => format!("{:+}", b - a),
            _ => String::new(),
        }
    })
}

fn leaves(value: &Value) -> BTreeMap<String, Value> {
    let mut leaves = BTreeMap::new();
    let mut open = vec![(String::new(), value)];
    while let Some((path, value)) = open.pop() {
        let below = |name: &str| match path.as_str() {
            "" => name.to_owned(),
            path => format!("{path}.{name}"),
        };
        match value {
            Value::Object(members) => {
                open.extend(members.iter().map(|(name, value)| (below(name), value)));
            }
            Value::Array(items) => {
                let items = items.iter().enumerate();
                open.extend(items.map(|(i, value)| (below(&i.to_string()), value)));
            }
            Value::Null => {}
            leaf => {
                leaves.insert(path, leaf.clone());
            }
        }
    }
    leaves
}

/// A tensor's type, shape and bytes.
type Tensor<'a> = (Dtype, Vec<usize>, &'a [u8]);

/// Tensors that differ; for those of one shape, by how much of the first one's norm.
fn tensors(a: &[u8], b: &[u8]) -> Result<Vec<Line>, Failure> {
    let (a, b) = (by_name(a)?, by_name(b)?);
    let shown = |(_, shape, _): &Tensor<'_>| format!("{shape:?}");
    Ok(compare(a, b, shown, |a, b| match (a.0, b.0) {
        _ if a.1 != b.1 => "another shape".to_owned(),
        (Dtype::F32, Dtype::F32) => {
            format!("{:.3e} of its norm", relative_change(a.2, b.2))
        }
        (a, b) => format!("{a} to {b}, or other values"),
    }))
}

fn by_name(file: &[u8]) -> Result<BTreeMap<String, Tensor<'_>>, Failure> {
    if file.is_empty() {
        return Ok(BTreeMap::new());
    }
    let file = SafeTensors::deserialize(file).with_context(|| format!("reading {WEIGHTS}"))?;
    let tensor = |(name, view): (&str, safetensors::tensor::TensorView<'_>)| {
        (name.to_owned(), view.dtype(), view.shape().to_vec())
    };
    let heads: Vec<_> = file.iter().map(tensor).collect();
    heads
        .into_iter()
        .map(|(name, dtype, shape)| {
            let view = file
                .tensor(&name)
                .with_context(|| format!("reading {name} of {WEIGHTS}"))?;
            Ok((name, (dtype, shape, view.data())))
        })
        .collect()
}

/// |b - a| / |a| of two tensors of f32, little-endian.
fn relative_change(a: &[u8], b: &[u8]) -> f64 {
    let numbers = |bytes: &[u8]| -> Vec<f64> {
        let words = bytes.as_chunks::<4>().0;
        words
            .iter()
            .map(|w| f64::from(f32::from_le_bytes(*w)))
            .collect()
    };
    let (a, b) = (numbers(a), numbers(b));
    let norm = |squares: f64| squares.sqrt();
    let change = norm(a.iter().zip(&b).map(|(a, b)| (b - a).powi(2)).sum());
    change / norm(a.iter().map(|a| a * a).sum()).max(f64::MIN_POSITIVE)
}

/// What is on one side only, or differs, in the order of the names.
fn compare<T: PartialEq>(
    mut a: BTreeMap<String, T>,
    mut b: BTreeMap<String, T>,
    show: impl Fn(&T) -> String,
    change: impl Fn(&T, &T) -> String,
) -> Vec<Line> {
    let names: BTreeSet<String> = a.keys().chain(b.keys()).cloned().collect();
    let line = |name: String| {
        let [left, right, change] = match (a.remove(&name), b.remove(&name)) {
            (Some(a), Some(b)) if a == b => return None,
            (Some(a), Some(b)) => [show(&a), show(&b), change(&a, &b)],
            (Some(a), None) => [show(&a), "-".to_owned(), "gone".to_owned()],
            (None, b) => [
                "-".to_owned(),
                b.as_ref().map(&show).unwrap_or_default(),
                "new".to_owned(),
            ],
        };
        Some([name, left, right, change])
    };
    names.into_iter().filter_map(line).collect()
}

fn objects(lines: &[Line]) -> Value {
    lines
        .iter()
        .map(|[name, a, b, change]| json!({ "name": name, "a": a, "b": b, "change": change }))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_differ_are_named_by_their_paths() {
        let a = json!({"dims": {"width": 64}, "blocks": [{"heads": 4}, {"heads": 3}], "same": 1, "gate": null});
        let b = json!({"dims": {"width": 64}, "blocks": [{"heads": 2}], "same": 1, "gate": {"hidden": 8}});
        let lines = values(&a, &b).map_each();
        assert_eq!(
            lines,
            [
                "blocks.0.heads 4 2 -50.00%",
                "blocks.1.heads 3 - gone",
                "gate.hidden - 8 new"
            ]
        );
    }

    #[test]
    fn tensors_are_compared_by_shape_and_norm() {
        let file = |tensors: &[(&str, &[f32])]| {
            let bytes: Vec<(String, Vec<u8>, usize)> = tensors
                .iter()
                .map(|(name, v)| {
                    (
                        (*name).to_owned(),
                        v.iter().flat_map(|f| f.to_le_bytes()).collect(),
                        v.len(),
                    )
                })
                .collect();
            let views = bytes.iter().map(|(name, bytes, n)| {
                let view = safetensors::tensor::TensorView::new(Dtype::F32, vec![*n], bytes);
                (name.as_str(), view.expect("fits"))
            });
            safetensors::serialize(views, None).expect("serialises")
        };
        let a = file(&[
            ("norm", &[3.0, 4.0]),
            ("same", &[1.0]),
            ("cut", &[1.0, 2.0]),
        ]);
        let b = file(&[("norm", &[3.0, 4.5]), ("same", &[1.0]), ("cut", &[1.0])]);
        let lines = tensors(&a, &b).expect("reads").map_each();
        assert_eq!(
            lines,
            [
                "cut [2] [1] another shape",
                "norm [2] [2] 1.000e-1 of its norm"
            ]
        );
        assert_eq!(tensors(&[], &b).expect("reads").len(), 3);
    }

    trait Joined {
        fn map_each(self) -> Vec<String>;
    }

    impl Joined for Vec<Line> {
        fn map_each(self) -> Vec<String> {
            self.iter().map(|line| line.join(" ")).collect()
        }
    }
}
