//! Folders that must be refused, and what a good one gives.
#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

use espalier_onnx::{MASKED_FILE, MODEL_FILE, export};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A copy of a small checkpoint of the repository.
fn checkpoint(name: &str) -> TempDir {
    let kept = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../python/tests/checkpoints")
        .join(name);
    let copy = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors"] {
        fs::copy(kept.join(file), copy.path().join(file)).unwrap();
    }
    copy
}

/// Changes `config.json`.
fn edit(folder: &Path, change: impl FnOnce(&mut Value)) {
    let path = folder.join("config.json");
    let mut config = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut config);
    fs::write(&path, config.to_string()).unwrap();
}

#[track_caller]
fn refused(folder: &Path, reason: &str) {
    let told = export(folder, folder, None).unwrap_err().to_string();
    assert!(told.contains(reason), "{told}");
    let files: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert!(files.len() <= 2, "left behind: {files:?}");
}

#[test]
fn a_gated_model_has_two_files_and_a_plain_one_has_one() {
    let names = |folder: &TempDir| {
        let written = export(folder.path(), folder.path(), None).unwrap();
        let names = written.iter().map(|path| path.file_name().unwrap());
        names
            .map(|name| name.to_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(names(&checkpoint("gated-cls")), [MODEL_FILE, MASKED_FILE]);
    assert_eq!(names(&checkpoint("static")), [MODEL_FILE]);
}

#[test]
fn one_checkpoint_has_one_file() {
    let folder = checkpoint("gated-mean-distilled");
    let bytes = || {
        export(folder.path(), folder.path(), None).unwrap();
        fs::read(folder.path().join(MODEL_FILE)).unwrap()
    };
    assert_eq!(bytes(), bytes());
}

#[test]
fn a_tensor_without_a_place_is_refused() {
    let folder = checkpoint("gated-cls");
    edit(folder.path(), |config| config["gate"] = Value::Null);
    refused(
        folder.path(),
        "no place for some tensors: blocks.0.gate_attn.fc1.bias",
    );
}

#[test]
fn another_structure_than_the_weights_have_is_refused() {
    let folder = checkpoint("static");
    edit(folder.path(), |config| {
        config["structure"]["blocks"][0]["heads"] = json!(3);
    });
    refused(
        folder.path(),
        "blocks.0.attn.qkv.weight is [48, 24] where the configuration has [72, 24]",
    );
    edit(folder.path(), |config| config["dims"]["heads"] = json!(0));
    refused(folder.path(), "dims.heads: 0 is not within");
}

#[test]
fn a_configuration_of_a_later_version_is_refused() {
    let folder = checkpoint("static");
    edit(folder.path(), |config| config["registers"] = json!(4));
    refused(folder.path(), "unknown field `registers`");
}

#[test]
fn channels_that_are_only_claimed_are_refused_before_they_are_allocated() {
    let folder = checkpoint("gated-t2t");
    edit(folder.path(), |config| {
        config["dims"]["channels"] = json!(1 << 20);
        config["mean"] = json!(vec![0.5; 1 << 20]);
        config["std"] = json!(vec![0.5; 1 << 20]);
    });
    refused(folder.path(), "tokens_to_token.attention1.kqv.weight is");
}

#[test]
fn damaged_and_absent_weights_are_refused() {
    let folder = checkpoint("static");
    let path = folder.path().join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    refused(folder.path(), "not a whole safetensors file");
    fs::remove_file(&path).unwrap();
    refused(folder.path(), "model.safetensors: cannot read the file");
}

#[test]
fn weights_above_the_limit_of_a_message_are_refused_unread() {
    let folder = checkpoint("static");
    let file = fs::File::create(folder.path().join("model.safetensors")).unwrap();
    // Sparse: it takes no space.
    file.set_len(3 << 30).unwrap();
    refused(folder.path(), "must stay below 2147483647 bytes");
}
