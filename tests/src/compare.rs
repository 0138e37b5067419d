use std::fs;
use std::path::Path;

use safetensors::SafeTensors;

use crate::Feed;

/// Largest difference allowed between worlds of different sizes. Sums over micro-batches are taken
/// in double precision and rounded once, so the results are equal unless a sum falls within 1e-16
/// of the middle between two numbers.
const TOLERANCE: f64 = 1e-6;

/// Asserts that two runs have the same loss at each step, to the tolerance.
#[track_caller]
pub fn assert_same_losses(one: &Feed, other: &Feed) {
    assert_eq!(one.losses().len(), other.losses().len());
    for (step, (one, other)) in one.losses().iter().zip(other.losses()).enumerate() {
        assert!(
            (one - other).abs() <= TOLERANCE * one.abs(),
            "step {}: {one} and {other}",
            step + 1
        );
    }
}

/// Asserts that whatever was measured of a run is what was measured of another at the same steps. What an agent
/// held when it was lost is lost with it, so that steps may be missing.
#[track_caller]
pub fn assert_no_other_losses(whole: &Feed, part: &Feed) {
    let losses = whole.losses();
    for measured in &part.metrics {
        let expected = losses[measured.step as usize - 1];
        assert!(
            (expected - measured.loss).abs() <= TOLERANCE * expected.abs(),
            "step {}: {expected} and {}",
            measured.step,
            measured.loss
        );
    }
}

/// Asserts that two weight files hold the same tensors, to the tolerance.
#[track_caller]
pub fn assert_close(left: &[u8], right: &[u8]) {
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
pub fn weights(dir: &Path) -> Vec<u8> {
    fs::read(dir.join("model.safetensors")).unwrap()
}
