//! Models of other libraries: weights in their files and names, logits against theirs. The values are
//! made by `reference/make.py`.

use std::path::{Path, PathBuf};

use espalier_job::{Architecture, Distilled, QkScale, Stem};
use espalier_vit::{
    Config, Dims, FileFormat, Param, ParamKind, Routing, Tensors, Vit, WeightsError, import,
    load_tensors, save_tensors,
};
use tch::{Device, Kind, Tensor};

use crate::common::assert_close;

/// The small model of all references: 17 tokens and the prefix's.
fn dims(architecture: Architecture) -> Dims {
    Dims {
        image_size: 32,
        patch_size: 8,
        channels: 3,
        classes: 5,
        width: 24,
        depth: 2,
        heads: 3,
        ffn: 48,
        architecture,
    }
}

fn distilled(distilled: Distilled) -> Architecture {
    Architecture {
        distilled,
        ..Architecture::default()
    }
}

/// Hugging Face's default.
fn fine(architecture: Architecture) -> Architecture {
    Architecture {
        norm_eps: 1e-12,
        ..architecture
    }
}

fn reference(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("reference")
        .join(file)
}

fn values(name: &str) -> Tensors {
    load_tensors(&reference(&format!("{name}.safetensors")), Device::Cpu).unwrap()
}

/// The weights of a reference as a file of its library has them.
fn weights(all: &Tensors, folder: &Path) -> PathBuf {
    let params: Vec<Param> = all
        .iter()
        .filter_map(|(name, tensor)| {
            Some(Param {
                name: name.strip_prefix("model.")?.to_owned(),
                tensor: tensor.shallow_clone(),
                kind: ParamKind::Weight { decay: true },
            })
        })
        .collect();
    let path = folder.join("weights.safetensors");
    save_tensors(&path, &params).unwrap();
    path
}

fn new(dims: Dims) -> Vit {
    let config = Config::dense(dims, vec![0.5; 3], vec![0.5; 3]);
    Vit::new(config, 1, Device::Cpu).unwrap()
}

fn imported(path: &Path, format: FileFormat, dims: Dims) -> Vit {
    let tensors = import(path, format, &dims, Device::Cpu).unwrap();
    let vit = new(dims);
    vit.load(&tensors).unwrap();
    vit
}

/// The logits of a safetensors file are those of its library.
fn agrees(name: &str, dims: Dims) {
    let folder = tempfile::tempdir().unwrap();
    let all = values(name);
    let path = weights(&all, folder.path());
    let vit = imported(&path, FileFormat::Safetensors, dims);
    let output = vit.forward(&all["input"], &Routing::Open);
    assert_close(&output.logits_BK, &all["logits"], 1e-5);
    if let (Some(cls), Some(dist)) = (all.get("cls"), all.get("dist")) {
        assert_close(&output.cls_BK, cls, 1e-5);
        assert_close(&output.dist_BK.unwrap(), dist, 1e-5);
    }
}

#[test]
fn deit_distilled_is_timm_s() {
    agrees("deit_distilled", dims(distilled(Distilled::TokenAndHead)));
}

#[test]
fn vit_and_deit_are_those_of_transformers() {
    agrees("hf_vit", dims(fine(Architecture::default())));
    agrees("hf_deit", dims(fine(distilled(Distilled::Token))));
    agrees(
        "hf_deit_distilled",
        dims(fine(distilled(Distilled::TokenAndHead))),
    );
}

#[test]
fn dinov2_is_timm_s_at_every_image_size() {
    let folder = tempfile::tempdir().unwrap();
    let all = values("dinov2");
    let path = weights(&all, folder.path());
    for side in [28, 56, 84] {
        let architecture = Architecture {
            layer_scale: Some(1e-5),
            ..Architecture::default()
        };
        let dims = Dims {
            image_size: side,
            patch_size: 14,
            ..dims(architecture)
        };
        let vit = imported(&path, FileFormat::Safetensors, dims);
        let output = vit.forward(&all[&format!("input.{side}")], &Routing::Open);
        assert_close(&output.logits_BK, &all[&format!("logits.{side}")], 1e-5);
    }
}

#[test]
fn the_backbone_of_dinov2_is_that_of_transformers() {
    let folder = tempfile::tempdir().unwrap();
    let all = values("hf_dinov2");
    let path = weights(&all, folder.path());
    let dims = Dims {
        classes: 24,
        ..dims(Architecture {
            layer_scale: Some(1.0),
            ..Architecture::default()
        })
    };
    let tensors = import(&path, FileFormat::Safetensors, &dims, Device::Cpu).unwrap();
    let vit = new(dims);
    let mismatch = vit.load(&tensors).unwrap_err();
    assert_eq!(mismatch.missing, ["head.weight", "head.bias"]);
    assert!(mismatch.is_of_heads_alone());
    vit.load_headless(&tensors).unwrap();
    // A head that passes on what it reads.
    for mut param in vit.parameters() {
        match param.name.as_str() {
            "head.weight" => {
                let eye = Tensor::eye(24, (Kind::Float, Device::Cpu));
                tch::no_grad(|| param.tensor.copy_(&eye));
            }
            "head.bias" => drop(tch::no_grad(|| param.tensor.zero_())),
            _ => {}
        }
    }
    let output = vit.forward(&all["input"], &Routing::Open);
    assert_close(&output.logits_BK, &all["cls"], 1e-5);
}

#[test]
fn t2t_vit_is_read_from_its_training_file() {
    let architecture = Architecture {
        stem: Stem::T2t,
        qkv_bias: false,
        qk_scale: QkScale::Width,
        norm_eps: 1e-5,
        ..Architecture::default()
    };
    let dims = Dims {
        patch_size: 16,
        ..dims(architecture)
    };
    let all = values("t2t");
    let vit = imported(&reference("t2t.pth"), FileFormat::Pth, dims);
    let output = vit.forward(&all["input"], &Routing::Open);
    assert_close(&output.logits_BK, &all["logits"], 1e-5);

    let pos_embed = new(dims).parameters().into_iter();
    let pos_embed = pos_embed.filter(|param| param.name == "pos_embed");
    let fresh: Vec<Tensor> = pos_embed.map(|param| param.tensor).collect();
    assert_close(&fresh[0], &all["sinusoid"], 1e-6);
}

#[test]
fn deit_is_read_from_its_training_file() {
    let all = values("deit");
    let dims = dims(Architecture::default());
    let vit = imported(&reference("deit.pth"), FileFormat::Pth, dims);
    let output = vit.forward(&all["input"], &Routing::Open);
    assert_close(&output.logits_BK, &all["logits"], 1e-5);
}

#[test]
fn the_wrong_architecture_gets_every_difference() {
    let folder = tempfile::tempdir().unwrap();
    let path = weights(&values("hf_deit_distilled"), folder.path());
    let dims = dims(Architecture {
        layer_scale: Some(1.0),
        ..Architecture::default()
    });
    let tensors = import(&path, FileFormat::Safetensors, &dims, Device::Cpu).unwrap();
    let text = new(dims).load(&tensors).unwrap_err().to_string();
    assert_eq!(
        text,
        "the tensors are not those of the model: missing: blocks.{0..1}.ls1.gamma, \
         blocks.{0..1}.ls2.gamma; unknown: dist_token, head_dist.bias, head_dist.weight; \
         of another shape: pos_embed is [1, 18, 24] where the model has [1, 17, 24]"
    );
}

#[test]
fn a_file_of_the_other_format_is_refused_with_its_path() {
    let dims = dims(Architecture::default());
    let refused = |file: &str, format| {
        let error = import(&reference(file), format, &dims, Device::Cpu).unwrap_err();
        assert!(error.to_string().contains(file), "{error}");
        error
    };
    let error = refused("deit.pth", FileFormat::Safetensors);
    assert!(matches!(error, WeightsError::Format { .. }), "{error}");
    let error = refused("hf_vit.safetensors", FileFormat::Pth);
    assert!(matches!(error, WeightsError::Pth { .. }), "{error}");
}
