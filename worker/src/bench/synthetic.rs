//! A model as training would leave one, without training: some heads and neurons gone from each block,
//! gates that decide by the image. Its answers mean nothing; what it costs does.

use espalier_random::{Rng as _, StandardNormal, Stream, rng};
use espalier_vit::{BlockStructure, Config, Cost, Dims, GateConfig, Routing, Structure, Vit};
use tch::{Device, Kind, Tensor, no_grad};

/// Of everything drawn here. Draws of [`Stream::Init`] with a first number of 0 are those of jobs.
const SEED: u64 = 0;
/// How far blocks differ: shares and rates are spread this much around their mean.
const SPREAD: f64 = 0.25;

/// A model of `target` of the dense MACs, over `x_BCHW` in per-sample mode. Structure and gates have
/// an equal part in it: both leave the square root of the target.
///
/// # Errors
/// A target that no structure or no decisions come near.
pub(super) fn model(dims: Dims, target: f64, x_BCHW: &Tensor) -> anyhow::Result<Vit> {
    let gate = GateConfig::from_job(&espalier_job::Gate::default(), target, &dims);
    let cost = Cost::new(&dims, Some(&gate));
    let part = target.sqrt();
    let config = Config {
        structure: structure(&dims, &cost, part),
        gate: Some(gate),
        ..Config::dense(
            dims,
            vec![0.5; dims.channels as usize],
            vec![0.25; dims.channels as usize],
        )
    };
    let mut vit = Vit::new(config, SEED, Device::Cpu)?;
    spread_gates(&vit, part, x_BCHW);
    let mut ratio = |threshold| {
        vit.set_threshold(threshold);
        let rate_M = rate_M(&vit, x_BCHW);
        cost.effective(&vit.config().structure, |m| rate_M[m]) / cost.dense()
    };
    let (mut low, mut high) = (-WIDEST, WIDEST);
    for _ in 0..THRESHOLDS {
        let middle = f64::midpoint(low, high);
        if ratio(middle) > target {
            low = middle;
        } else {
            high = middle;
        }
    }
    let found = ratio(high);
    anyhow::ensure!(
        (found - target).abs() <= NEAR * target,
        "--target {target}: the nearest that the gates come to is {found:.3}"
    );
    Ok(vit)
}

/// Halvings in search of the threshold.
const THRESHOLDS: usize = 9;
/// How far the model may be off the target, as a share of it.
const NEAR: f64 = 0.05;

/// Blocks of different sizes, in whole heads and in eighths of the neurons, that have `part` of the
/// dense MACs together.
fn structure(dims: &Dims, cost: &Cost, part: f64) -> Structure {
    let offsets = offsets(0, dims.modules());
    let of = |mean: f64| Structure {
        blocks: offsets
            .chunks_exact(2)
            .map(|offset| {
                let size = |offset: f64, steps: i64| {
                    ((mean + offset) * steps as f64)
                        .round()
                        .clamp(1.0, steps as f64) as i64
                };
                BlockStructure {
                    heads: size(offset[0], dims.heads),
                    neurons: size(offset[1], 8) * dims.ffn / 8,
                }
            })
            .collect(),
    };
    let miss = |structure: &Structure| (cost.static_macs(structure) / cost.dense() - part).abs();
    let candidates = (0..=100).map(|percent| of(f64::from(percent) / 100.0));
    candidates
        .min_by(|a, b| miss(a).total_cmp(&miss(b)))
        .unwrap_or_else(|| unreachable!("the candidates are not none"))
}

/// One number in [-SPREAD, SPREAD] for each module.
fn offsets(index: u64, modules: i64) -> Vec<f64> {
    let mut rng = rng(SEED, Stream::Init, 1, index);
    (0..modules)
        .map(|_| rng.random_range(-SPREAD..=SPREAD))
        .collect()
}

/// Makes the gates' margins wide, and moves each gate's bias until it keeps its own share of the images,
/// around `mean`. The gates of block 0 keep
/// all: they look at a CLS token that has seen no image.
fn spread_gates(vit: &Vit, mean: f64, x_BCHW: &Tensor) {
    let modules = vit.config().dims.modules();
    let asked_M: Vec<f64> = offsets(1, modules)
        .iter()
        .map(|offset| (mean + offset).clamp(0.05, 0.95))
        .collect();
    let bias_of = |name: &str| -> Option<usize> {
        let (block, gate) = name.strip_prefix("blocks.")?.split_once(".gate_")?;
        let second = gate.strip_suffix(".fc2.bias")?;
        Some(2 * block.parse::<usize>().ok()? + usize::from(second == "ffn"))
    };
    let params = vit.parameters();
    let biases: Vec<(usize, &Tensor)> = params
        .iter()
        .filter_map(|param| bias_of(&param.name).map(|m| (m, &param.tensor)))
        .collect();
    let mut bias_M = vec![0.0; modules as usize];
    bias_M[..BLIND].fill(WIDEST);
    let set = |bias_M: &[f64]| {
        for (m, bias_2) in &biases {
            let _ = bias_2.get(1).fill_(bias_M[*m]);
            let _ = bias_2.get(0).fill_(0.0);
        }
    };
    let looked_at = x_BCHW.narrow(0, 0, LOOKED_AT.min(x_BCHW.size()[0]));
    no_grad(|| {
        for param in &params {
            if param.name.contains(".gate_")
                && param.name.ends_with(".weight")
                && param.tensor.dim() == 2
            {
                // Weights of variance 1 / inputs, from those of a new model.
                let inputs = param.tensor.size()[1] as f64;
                let spread = 1.0 / (inputs.sqrt() * param.tensor.std(false).double_value(&[]));
                let _ = param.tensor.shallow_clone().g_mul_scalar_(spread);
            }
        }
        // What a gate decides changes what later gates see: each sweep starts a little wider than
        // the last one ended, to make up for that.
        for sweep in 0..SWEEPS {
            let mut step = WIDEST / f64::from(1 << sweep);
            for _ in 0..HALVINGS {
                set(&bias_M);
                let rate_M = rate_M(vit, &looked_at);
                step /= 2.0;
                for (m, bias) in bias_M.iter_mut().enumerate().skip(BLIND) {
                    *bias += if rate_M[m] > asked_M[m] { -step } else { step };
                }
            }
        }
        set(&bias_M);
    });
}

/// Modules of block 0.
const BLIND: usize = 2;
/// Biases are looked for within plus and minus this.
const WIDEST: f64 = 4.0;
/// Searches for all biases, each within half the reach of the one before.
const SWEEPS: u32 = 6;
/// Steps of a search.
const HALVINGS: usize = 4;
/// Images that the biases are found on.
const LOOKED_AT: i64 = 24;

/// Share of the images that run each module, in per-sample mode.
fn rate_M(vit: &Vit, x_BCHW: &Tensor) -> Vec<f64> {
    let output = vit.forward(x_BCHW, &Routing::PerSample);
    let rate_M = output
        .decisions_BM
        .mean_dim([0].as_slice(), false, Kind::Double);
    (0..rate_M.size()[0])
        .map(|m| rate_M.double_value(&[m]))
        .collect()
}

/// Images of coloured clouds with a little noise: they differ by more than noise, as photographs do.
pub(super) fn images(dims: &Dims, count: i64) -> Tensor {
    let normal = |side: i64, index: u64| {
        let shape = [count, dims.channels, side, side];
        let values: Vec<f32> = rng(SEED, Stream::Init, 2, index)
            .sample_iter(StandardNormal)
            .take(shape.iter().product::<i64>() as usize)
            .collect();
        Tensor::from_slice(&values).reshape(shape)
    };
    let side = dims.image_size;
    let clouds = normal(CLOUDS, 0).upsample_bilinear2d([side, side], false, None, None);
    clouds + normal(1, 1) + normal(side, 2) * 0.2
}

/// Clouds along a side.
const CLOUDS: i64 = 4;

#[cfg(test)]
mod tests {
    use super::*;

    fn dims() -> Dims {
        Dims {
            image_size: 32,
            patch_size: 8,
            channels: 3,
            classes: 10,
            width: 48,
            depth: 4,
            heads: 4,
            ffn: 192,
            architecture: espalier_job::Architecture::default(),
        }
    }

    fn halved() -> (Vit, Tensor) {
        tch::set_num_threads(1);
        let x_BCHW = images(&dims(), 64);
        (model(dims(), 0.5, &x_BCHW).unwrap(), x_BCHW)
    }

    #[test]
    fn the_model_meets_its_target_by_structure_and_by_gates() {
        let (vit, x_BCHW) = halved();
        let config = vit.config();
        let cost = Cost::new(&config.dims, config.gate.as_ref());
        let static_ratio = cost.static_macs(&config.structure) / cost.dense();
        assert!(
            (static_ratio - 0.5_f64.sqrt()).abs() < 0.05,
            "{static_ratio}"
        );
        let rates = rate_M(&vit, &x_BCHW);
        let ratio = cost.effective(&config.structure, |m| rates[m]) / cost.dense();
        assert!((ratio - 0.5).abs() < 0.025, "{ratio}");
    }

    #[test]
    fn gates_decide_by_the_image() {
        let (vit, x_BCHW) = halved();
        let rates = rate_M(&vit, &x_BCHW);
        let mixed = rates
            .iter()
            .filter(|rate| (0.05..=0.95).contains(*rate))
            .count();
        assert!(mixed >= 4, "{rates:?}");
    }
}
