//! Checkpoint folders and files.

use std::fs;

use espalier_job::{Average, GateInput};
use espalier_vit::{Config, Routing, Tensors, Vit, WeightsError, load_tensors, save_tensors};
use tch::{Device, Kind, Tensor};

use crate::common::{dense, dims, gated, gates, images};

fn tensors(vit: &Vit) -> Tensors {
    let params = vit.parameters().into_iter();
    params
        .map(|param| (param.name, param.tensor.detach()))
        .collect()
}

#[test]
fn a_saved_model_opens_as_itself() {
    let folder = tempfile::tempdir().unwrap();
    let mut vit = gated(gates(GateInput::Mean, Average::Logits));
    vit.set_threshold(0.125);
    vit.save(folder.path()).unwrap();
    let opened = Vit::open(folder.path(), Device::Cpu).unwrap();
    assert_eq!(opened.config(), vit.config());
    let x_BCHW = images(&dims(), 5, 1);
    let logits = |vit: &Vit| vit.forward(&x_BCHW, &Routing::PerSample).logits_BK;
    assert_eq!(logits(&opened), logits(&vit));
    let mut files: Vec<_> = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    files.sort();
    assert_eq!(files, ["config.json", "model.safetensors"]);
}

#[test]
fn loading_names_every_difference_and_changes_nothing() {
    let vit = dense();
    let before = tensors(&vit)["head.bias"].copy();
    let mut wrong = tensors(&vit);
    wrong.remove("norm.bias");
    wrong.insert(
        "extra".to_owned(),
        Tensor::zeros([1], (Kind::Float, Device::Cpu)),
    );
    wrong.insert(
        "head.weight".to_owned(),
        Tensor::zeros([3, 32], (Kind::Float, Device::Cpu)),
    );
    wrong.insert("head.bias".to_owned(), before.ones_like());
    let mismatch = vit.load(&wrong).unwrap_err();
    assert_eq!(mismatch.missing, ["norm.bias"]);
    assert_eq!(mismatch.unknown, ["extra"]);
    let misshaped = [("head.weight".to_owned(), vec![10, 32], vec![3, 32])];
    assert_eq!(mismatch.misshaped, misshaped);
    let text = mismatch.to_string();
    assert!(
        text.contains("head.weight is [3, 32] where the model has [10, 32]"),
        "{text}"
    );
    assert_eq!(tensors(&vit)["head.bias"], before);
}

#[test]
fn a_dense_model_fills_a_gated_one() {
    let source = dense();
    let vit = Vit::new(gated_config(), 9, Device::Cpu).unwrap();
    assert!(!vit.load(&tensors(&source)).unwrap_err().missing.is_empty());
    vit.load_ungated(&tensors(&source)).unwrap();
    let x_BCHW = images(&dims(), 2, 2);
    let logits = |vit: &Vit| vit.forward(&x_BCHW, &Routing::Open).logits_BK;
    assert_eq!(logits(&vit), logits(&source));
}

#[test]
fn gates_do_not_change_the_other_first_weights() {
    let plain = Config::dense(dims(), vec![0.5], vec![0.25]);
    let plain = Vit::new(plain, 9, Device::Cpu).unwrap();
    let with_gates = Vit::new(gated_config(), 9, Device::Cpu).unwrap();
    let other_seed = Vit::new(gated_config(), 10, Device::Cpu).unwrap();
    let (plain, with_gates) = (tensors(&plain), tensors(&with_gates));
    for (name, tensor) in &plain {
        assert_eq!(*tensor, with_gates[name], "{name}");
    }
    assert!(plain["head.weight"] != tensors(&other_seed)["head.weight"]);
}

#[test]
fn damaged_files_are_refused_with_their_path() {
    let folder = tempfile::tempdir().unwrap();
    let vit = dense();
    vit.save(folder.path()).unwrap();
    let path = folder.path().join("model.safetensors");
    let whole = fs::read(&path).unwrap();
    for kept in [0, 4, 200, whole.len() - 1] {
        fs::write(&path, &whole[..kept]).unwrap();
        let error = Vit::open(folder.path(), Device::Cpu).unwrap_err();
        assert!(matches!(error, WeightsError::Format { .. }), "{error}");
        assert!(error.to_string().contains("model.safetensors"), "{error}");
    }
    fs::remove_file(&path).unwrap();
    let error = Vit::open(folder.path(), Device::Cpu).unwrap_err();
    assert!(matches!(error, WeightsError::Io { .. }), "{error}");
}

#[test]
fn a_configuration_of_no_model_is_refused_with_its_field() {
    let folder = tempfile::tempdir().unwrap();
    let vit = dense();
    vit.save(folder.path()).unwrap();
    let path = folder.path().join("config.json");
    let whole = fs::read_to_string(&path).unwrap();
    for (from, to, expected) in [
        ("\"patch_size\": 7", "\"patch_size\": 5", "dims.patch_size"),
        ("\"patch_size\": 7", "\"patch_size\": 0", "dims.patch_size"),
        ("\"width\": 32", "\"width\": 30", "dims.heads"),
        ("\"depth\": 3", "\"depth\": 4", "structure.blocks"),
        (
            "\"neurons\": 64",
            "\"neurons\": 65",
            "structure.blocks[0].neurons",
        ),
        ("\"width\": 32", "\"width\": 64", "pos_embed"),
        ("\"dims\"", "\"dimensions\"", "line 2"),
    ] {
        assert!(whole.contains(from));
        fs::write(&path, whole.replacen(from, to, 1)).unwrap();
        let error = Vit::open(folder.path(), Device::Cpu).unwrap_err();
        let source = std::error::Error::source(&error).map(ToString::to_string);
        let text = format!("{error}: {}", source.unwrap_or_default());
        assert!(text.contains(expected), "{text}");
    }
}

#[test]
fn tensors_of_whole_numbers_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    let mut params = dense().parameters();
    params.truncate(1);
    save_tensors(&path, &params).unwrap();
    assert_eq!(load_tensors(&path, Device::Cpu).unwrap().len(), 1);
    let text = fs::read(&path).unwrap();
    let changed = String::from_utf8_lossy(&text[..80]).replace("F32", "I32");
    let bytes = [changed.as_bytes(), &text[80..]].concat();
    fs::write(&path, bytes).unwrap();
    let error = load_tensors(&path, Device::Cpu).unwrap_err();
    assert!(matches!(error, WeightsError::Dtype { .. }), "{error}");
}

fn gated_config() -> Config {
    gated(gates(GateInput::Cls, Average::Logits))
        .config()
        .clone()
}
