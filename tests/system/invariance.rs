//! A step is a pure function of (job, seed, step, parameters): how many workers run it, and how
//! often the job was stopped on the way, changes nothing.

use std::fs;
use std::path::Path;

use espalier_tests::{Cluster, Feed, TinyJob};
use safetensors::SafeTensors;

/// Largest difference allowed between worlds of different sizes. Sums over micro-batches are taken
/// in double precision and rounded once, so the results are equal unless a sum falls within 1e-16
/// of the middle between two numbers.
const TOLERANCE: f64 = 1e-6;

#[test]
fn one_two_and_three_workers_train_the_same_model() {
    let cluster = Cluster::start(3);
    let job = |workers: u32, name: &str| TinyJob {
        workers,
        name: name.to_owned(),
        ..TinyJob::new(&cluster.data())
    };
    let mut runs = Vec::new();
    for (workers, name) in [(1, "w1"), (2, "w2"), (3, "w3"), (3, "again")] {
        let (_, feed) = cluster.run(&job(workers, name));
        feed.assert_ledger(50);
        assert_eq!(feed.losses().len(), 50, "{name}");
        let dir = cluster.pull(&format!("{name}:latest"), name);
        runs.push((feed, weights(&dir)));
    }

    let (one, model) = &runs[0];
    for (other, other_model) in &runs[1..] {
        assert_same_losses(one, other);
        assert_close(model, other_model);
    }
    assert_eq!(
        runs[2].0.bits(),
        runs[3].0.bits(),
        "two runs of three workers differ"
    );
    assert!(runs[2].1 == runs[3].1, "two runs of three workers differ");
}

/// Asserts that two runs have the same loss at each step, to the tolerance.
#[track_caller]
pub(crate) fn assert_same_losses(one: &Feed, other: &Feed) {
    assert_eq!(one.losses().len(), other.losses().len());
    for (step, (one, other)) in one.losses().iter().zip(other.losses()).enumerate() {
        assert!(
            (one - other).abs() <= TOLERANCE * one.abs(),
            "step {}: {one} and {other}",
            step + 1
        );
    }
}

/// Asserts that two weight files hold the same tensors, to the tolerance.
#[track_caller]
pub(crate) fn assert_close(left: &[u8], right: &[u8]) {
    let (left, right) = (
        SafeTensors::deserialize(left).unwrap(),
        SafeTensors::deserialize(right).unwrap(),
    );
    assert_eq!(left.len(), right.len());
    for (name, tensor) in left.tensors() {
        let other = right.tensor(&name).unwrap();
        assert_eq!(tensor.shape(), other.shape(), "{name}");
        for (a, b) in floats(tensor.data()).zip(floats(other.data())) {
            assert!(f64::from((a - b).abs()) <= TOLERANCE, "{name}: {a} and {b}");
        }
    }
}

fn floats(bytes: &[u8]) -> impl Iterator<Item = f32> {
    bytes
        .chunks_exact(4)
        .map(|word| f32::from_le_bytes([word[0], word[1], word[2], word[3]]))
}

/// The weights of a pulled model.
pub(crate) fn weights(dir: &Path) -> Vec<u8> {
    fs::read(dir.join("model.safetensors")).unwrap()
}
