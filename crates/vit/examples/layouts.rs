//! Writes small models in the layouts of other libraries, each with a batch and our logits, for
//! `reference/check_layouts.py` to hold against what those libraries compute.
#![allow(non_snake_case)]

use std::error::Error;
use std::path::{Path, PathBuf};

use espalier_job::{Architecture, Distilled};
use espalier_layout::{Layout, export};
use espalier_vit::{
    BlockStructure, Config, Dims, Param, ParamKind, Routing, Structure, Vit, save_tensors,
};
use tch::{Device, Kind, Tensor, no_grad};

fn main() -> Result<(), Box<dyn Error>> {
    let out = std::env::args().nth(1).map(PathBuf::from);
    let out = out.ok_or("an argument is needed: the folder to write to")?;
    let plain = Architecture::default();
    let distilled = |distilled| Architecture { distilled, ..plain };
    let scaled = Architecture {
        layer_scale: Some(0.1),
        ..plain
    };
    let unbiased = Architecture {
        qkv_bias: false,
        ..plain
    };
    let both = [Layout::Timm, Layout::HuggingFace];
    write(&out, "plain", plain, 96, &both)?;
    write(&out, "narrow", plain, 40, &both)?;
    write(&out, "unbiased", unbiased, 96, &both)?;
    write(
        &out,
        "distilled",
        distilled(Distilled::TokenAndHead),
        96,
        &both,
    )?;
    write(&out, "token", distilled(Distilled::Token), 96, &both[1..])?;
    write(&out, "scaled", scaled, 96, &both)
}

/// The model of this architecture whose blocks have `neurons` of 96 neurons.
fn write(
    out: &Path,
    name: &str,
    architecture: Architecture,
    neurons: i64,
    layouts: &[Layout],
) -> Result<(), Box<dyn Error>> {
    let dims = Dims {
        image_size: 32,
        patch_size: 8,
        channels: 3,
        classes: 5,
        width: 24,
        depth: 2,
        heads: 3,
        ffn: 96,
        architecture,
    };
    let block = BlockStructure { heads: 3, neurons };
    let config = Config {
        structure: Structure {
            blocks: vec![block; 2],
        },
        ..Config::dense(dims, vec![0.5; 3], vec![0.25; 3])
    };
    let vit = Vit::new(config, 1, Device::Cpu)?;
    tch::manual_seed(1);
    no_grad(|| {
        for mut param in vit.parameters() {
            param.tensor += param.tensor.randn_like() * 0.1;
        }
    });
    let folder = out.join(name);
    std::fs::create_dir_all(&folder)?;
    vit.save(&folder)?;
    for layout in layouts {
        let to = match layout {
            Layout::Timm => "timm",
            Layout::HuggingFace => "huggingface",
        };
        export(&folder, &folder.join(to), *layout)?;
    }
    let input = Tensor::randn([2, 3, 32, 32], (Kind::Float, Device::Cpu));
    let logits = no_grad(|| vit.forward(&input, &Routing::Open).logits_BK);
    let tensors = [("input", input), ("logits", logits)].map(|(name, tensor)| Param {
        name: name.to_owned(),
        tensor,
        kind: ParamKind::Frozen,
    });
    save_tensors(&folder.join("expected.safetensors"), &tensors)?;
    Ok(())
}
