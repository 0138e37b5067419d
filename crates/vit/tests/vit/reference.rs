//! Values of PyTorch and timm, made by `reference/make.py`.

use std::path::Path;

use espalier_job::Architecture;
use espalier_vit::{Config, Dims, Routing, Tensors, Vit, cross_entropy_sum, load_tensors};
use tch::{Device, Kind};

use crate::common::assert_close;

fn reference() -> (Vit, Tensors) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("reference/vit.safetensors");
    let all = load_tensors(&path, Device::Cpu).unwrap();
    let weights: Tensors = all
        .iter()
        .filter_map(|(name, tensor)| {
            let name = name.strip_prefix("model.")?;
            Some((name.to_owned(), tensor.shallow_clone()))
        })
        .collect();
    let dims = Dims {
        image_size: 32,
        patch_size: 8,
        channels: 3,
        classes: 10,
        width: 48,
        depth: 3,
        heads: 3,
        ffn: 192,
        architecture: Architecture::default(),
    };
    let config = Config::dense(dims, vec![0.5; 3], vec![0.5; 3]);
    let vit = Vit::new(config, 0, Device::Cpu).unwrap();
    vit.load(&weights).unwrap();
    (vit, all)
}

#[test]
fn logits_are_those_of_pytorch() {
    let (vit, all) = reference();
    for routing in [Routing::Open, Routing::Shared, Routing::PerSample] {
        let output = vit.forward(&all["input"], &routing);
        assert_close(&output.logits_BK, &all["logits"], 1e-5);
    }
}

#[test]
fn loss_and_gradients_are_those_of_pytorch() {
    let (vit, all) = reference();
    let logits_BK = vit.forward(&all["input"], &Routing::Open).logits_BK;
    let loss = cross_entropy_sum(&logits_BK, &all["labels"].to_kind(Kind::Int64), 0.1);
    assert_close(&loss, &all["loss"], 1e-5);

    loss.backward();
    let mut compared = 0;
    for param in vit.parameters() {
        if let Some(expected) = all.get(&format!("grad.{}", param.name)) {
            assert_close(&param.tensor.grad(), expected, 1e-5);
            compared += 1;
        }
    }
    assert_eq!(compared, 8);
}
