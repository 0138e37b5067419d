use std::fs;
use std::path::{Path, PathBuf};

use espalier_job::DecideBy;
use espalier_vit::{GateConfig, Param, ParamKind, Routing, Vit, load_tensors, save_tensors};
use tch::{Device, Tensor, no_grad};

use crate::kept::{Kept, OTHER_BUDGET, kept};

/// Beside `config.json` and `model.safetensors`: `pixels`, and `logits` and `decisions` of each mode; those at
/// [`OTHER_BUDGET`] below `other_budget`.
const EXPECTED: &str = "expected.safetensors";

pub(crate) fn folder(kept: &Kept) -> PathBuf {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let root = crates.parent().unwrap();
    root.join("python/tests/checkpoints").join(kept.name)
}

/// `ESPALIER_BLESS=1 cargo test -p espalier-vit --test checkpoints` writes the folders.
#[test]
fn the_kept_checkpoints_are_what_the_model_computes() {
    for kept in kept() {
        let folder = folder(&kept);
        if std::env::var_os("ESPALIER_BLESS").is_some() {
            write(&kept, &folder);
        }
        let vit = Vit::open(&folder, Device::Cpu).unwrap();
        assert_eq!(vit.config(), &kept.config, "{}", kept.name);
        let stored = load_tensors(&folder.join(EXPECTED), Device::Cpu).unwrap();
        for (name, computed) in expected(vit, &stored["pixels"]) {
            let distance = (&stored[&name] - computed).abs().max().double_value(&[]);
            assert!(distance <= 1e-4, "{}: {name} is {distance} off", kept.name);
        }
    }
}

/// Without this, no reader of the folders could tell a gate that decides from one that does not.
#[test]
fn gates_of_the_kept_checkpoints_differ_from_sample_to_sample() {
    let looks = |gate: GateConfig| gate.decide == DecideBy::Input;
    for kept in kept()
        .iter()
        .filter(|kept| kept.config.gate.is_some_and(looks))
    {
        let stored = load_tensors(&folder(kept).join(EXPECTED), Device::Cpu).unwrap();
        let decisions_BM = &stored["per_sample.decisions"];
        if let Some(others_BM) = stored.get("other_budget.per_sample.decisions") {
            assert_ne!(
                others_BM, decisions_BM,
                "{}: the budget changes nothing",
                kept.name
            );
        }
        let rate_M = decisions_BM.mean_dim(0, false, None);
        let split = rate_M.gt(0.0).logical_and(&rate_M.lt(1.0));
        let split = split.sum(None).int64_value(&[]);
        assert!(split >= 2, "{}: {split} gates differ", kept.name);
        let shared_M = stored["shared.decisions"].select(0, 0);
        let closed =
            i64::try_from(shared_M.numel()).unwrap() - shared_M.sum(None).double_value(&[]) as i64;
        let dropped = kept.config.structure.blocks.iter();
        let dropped = dropped
            .map(|block| i64::from(block.heads == 0) + i64::from(block.neurons == 0))
            .sum::<i64>();
        assert!(closed > dropped, "{}: the batch skips nothing", kept.name);
    }
}

fn write(kept: &Kept, folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    let vit = kept.model();
    vit.save(folder).unwrap();
    let pixels = kept.pixels();
    let mut tensors = expected(vit, &pixels);
    tensors.push(("pixels".to_owned(), pixels));
    let params: Vec<Param> = tensors
        .into_iter()
        .map(|(name, tensor)| Param {
            name,
            tensor,
            // Not kept in a file.
            kind: ParamKind::Weight { decay: false },
        })
        .collect();
    save_tensors(&folder.join(EXPECTED), &params).unwrap();
}

fn expected(mut vit: Vit, pixels: &Tensor) -> Vec<(String, Tensor)> {
    let mut tensors = of_modes(&vit, pixels, "");
    if !vit.config().budgets.is_empty() {
        vit.run_at(OTHER_BUDGET).unwrap();
        tensors.extend(of_modes(&vit, pixels, "other_budget."));
    }
    tensors
}

fn of_modes(vit: &Vit, pixels: &Tensor, prefix: &str) -> Vec<(String, Tensor)> {
    let modes = [
        ("per_sample", Routing::PerSample),
        ("shared", Routing::Shared),
    ];
    let computed = modes.into_iter().flat_map(|(mode, routing)| {
        let output = no_grad(|| vit.forward(pixels, &routing));
        [
            (format!("{prefix}{mode}.logits"), output.logits_BK),
            (format!("{prefix}{mode}.decisions"), output.decisions_BM),
        ]
    });
    computed.collect()
}
