//! Folders for other libraries, and back.

use std::fs;

use espalier_job::{Architecture, Average, Distilled, GateInput};
use espalier_layout::{Layout, LayoutError, export};
use espalier_vit::{Config, FileFormat, Ranking, Routing, Structure, Tensors, Vit, import, slice};
use tch::{Device, Tensor};

use crate::common::{assert_close, dense_of, dims, families, gated, gates, images};

fn written(vit: &Vit, layout: Layout) -> Result<Tensors, LayoutError> {
    let folder = tempfile::tempdir().unwrap();
    vit.save(folder.path()).unwrap();
    let out = folder.path().join("out");
    let files = export(folder.path(), &out, layout)?;
    for file in files {
        assert!(file.is_file(), "{}", file.display());
    }
    let weights = out.join("model.safetensors");
    let dims = &vit.config().dims;
    Ok(import(&weights, FileFormat::Safetensors, dims, Device::Cpu).unwrap())
}

#[test]
fn what_is_exported_comes_back_as_the_same_model() {
    let mut expressed = 0;
    for dims in families() {
        let vit = dense_of(dims);
        for layout in [Layout::Timm, Layout::HuggingFace] {
            let mut tensors = match written(&vit, layout) {
                Ok(tensors) => tensors,
                Err(LayoutError::Inexpressible { .. }) => continue,
                Err(error) => panic!("{error}"),
            };
            expressed += 1;
            if dims.architecture.layer_scale.is_some() && layout == Layout::HuggingFace {
                narrow_the_head(&mut tensors, dims.width);
            }
            let again = Vit::new(vit.config().clone(), 5, Device::Cpu).unwrap();
            again.load(&tensors).unwrap();
            let x_BCHW = images(&dims, 3, 1);
            let logits = |vit: &Vit| vit.forward(&x_BCHW, &Routing::Open).logits_BK;
            assert_eq!(logits(&again), logits(&vit), "{dims:?}");
        }
    }
    // timm: plain, distilled, LayerScale; Hugging Face: those, and a token without a head.
    assert_eq!(expressed, 7);
}

/// DINOv2's classifier reads the mean of the patches as well, by columns that are zeros here.
fn narrow_the_head(tensors: &mut Tensors, width: i64) {
    let wide = &tensors["head.weight"];
    let beside = wide.narrow(1, width, width);
    assert_eq!(beside, beside.zeros_like());
    let own: Tensor = wide.narrow(1, 0, width).contiguous();
    tensors.insert("head.weight".to_owned(), own);
}

#[test]
fn a_model_whose_blocks_have_as_many_neurons_each_is_expressible() {
    let vit = dense_of(dims());
    let mut structure = Structure::full(&dims());
    for block in &mut structure.blocks {
        block.neurons = 40;
    }
    let sliced = slice(&vit, &Ranking::by_norm(&vit), &structure).unwrap();
    for layout in [Layout::Timm, Layout::HuggingFace] {
        let tensors = written(&sliced, layout).unwrap();
        let again = Vit::new(sliced.config().clone(), 5, Device::Cpu).unwrap();
        again.load(&tensors).unwrap();
        let x_BCHW = images(&dims(), 3, 1);
        let logits = |vit: &Vit| vit.forward(&x_BCHW, &Routing::Open).logits_BK;
        assert_close(&logits(&again), &logits(&sliced), 1e-6);
    }
}

#[test]
fn what_cannot_be_expressed_is_refused_with_every_reason() {
    let vit = gated(gates(GateInput::Cls, Average::Logits));
    let mut structure = Structure::full(&dims());
    structure.blocks[1].heads = 2;
    structure.blocks[2].neurons = 8;
    let sliced = slice(&vit, &Ranking::by_norm(&vit), &structure).unwrap();
    let refused = written(&sliced, Layout::HuggingFace)
        .unwrap_err()
        .to_string();
    assert_eq!(
        refused,
        "transformers cannot express this model: it has gates, without which it would answer otherwise; \
         attention heads were pruned (blocks.1 2 of 4); \
         its blocks have different numbers of FFN neurons (64, 64, 8)"
    );
    let t2t = families().pop().unwrap();
    let refused = written(&dense_of(t2t), Layout::Timm)
        .unwrap_err()
        .to_string();
    for reason in ["T2T stem", "scales attention", "epsilon 1e-6, not 1e-5"] {
        assert!(refused.contains(reason), "{refused}");
    }
    let both = Architecture {
        distilled: Distilled::Token,
        layer_scale: Some(0.1),
        ..Architecture::default()
    };
    let dims = espalier_vit::Dims {
        architecture: both,
        ..dims()
    };
    for layout in [Layout::Timm, Layout::HuggingFace] {
        let error = written(&dense_of(dims), layout).unwrap_err();
        assert!(
            matches!(error, LayoutError::Inexpressible { .. }),
            "{error}"
        );
    }
}

#[test]
fn a_folder_that_is_there_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    dense_of(dims()).save(folder.path()).unwrap();
    let out = folder.path().join("out");
    fs::create_dir(&out).unwrap();
    fs::write(out.join("mine"), "").unwrap();
    let error = export(folder.path(), &out, Layout::Timm).unwrap_err();
    assert!(matches!(error, LayoutError::Exists { .. }), "{error}");
    let entries = fs::read_dir(&out).unwrap().count();
    assert_eq!(entries, 1);
}

#[test]
fn a_damaged_checkpoint_is_refused_and_nothing_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let vit = dense_of(dims());
    vit.save(folder.path()).unwrap();
    let path = folder.path().join("model.safetensors");
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() - 1]).unwrap();
    let out = folder.path().join("out");
    let error = export(folder.path(), &out, Layout::Timm).unwrap_err();
    assert!(matches!(error, LayoutError::Format(_)), "{error}");
    assert!(!out.exists());
    let config = Config::dense(dims(), vec![], vec![]);
    let text = serde_json::to_vec(&config).unwrap();
    fs::write(folder.path().join("config.json"), text).unwrap();
    let error = export(folder.path(), &out, Layout::Timm).unwrap_err();
    assert!(matches!(error, LayoutError::Config(_)), "{error}");
}
