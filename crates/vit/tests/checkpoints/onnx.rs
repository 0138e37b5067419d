use std::path::Path;
use std::process::Command;

use crate::kept::{OTHER_BUDGET, kept};
use crate::stored::folder;

/// ONNX Runtime gives the model's own logits and decisions: the batch deciding as one, each sample
/// alone, and the masked file on batches of several sizes.
#[test]
fn onnx_runtime_computes_what_the_model_does() {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    let interpreter = manifest.join("../../.cache/python/bin/python");
    assert!(
        interpreter.exists(),
        "{} is missing: `scripts/python-env test` makes it",
        interpreter.display()
    );
    for kept in kept() {
        let folder = folder(&kept);
        let several = !kept.config.budgets.is_empty();
        let budgets = [
            Some((None, "")),
            several.then_some((Some(OTHER_BUDGET), "other_budget.")),
        ];
        for (budget, prefix) in budgets.into_iter().flatten() {
            let out = tempfile::tempdir().unwrap();
            let written = espalier_onnx::export(&folder, out.path(), budget).unwrap();
            assert_eq!(written.len(), 1 + usize::from(kept.config.gate.is_some()));
            let ran = Command::new(&interpreter)
                .arg(manifest.join("tests/checkpoints/onnx_check.py"))
                .args([&folder, out.path()])
                .arg(prefix)
                .output()
                .unwrap();
            assert!(
                ran.status.success(),
                "{} {prefix}: {}{}",
                kept.name,
                String::from_utf8_lossy(&ran.stdout),
                String::from_utf8_lossy(&ran.stderr)
            );
        }
    }
}
