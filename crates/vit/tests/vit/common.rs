use espalier_job::{Architecture, Average, DecideBy, Distilled, GateInput, QkScale, Stem};
use espalier_random::{Rng as _, StandardNormal, Stream, rng};
use espalier_vit::{Config, Dims, GateBudget, GateConfig, Vit};
use tch::{Device, Tensor, no_grad};

/// A grey image of 28 pixels in patches of 7: 17 tokens, CLS included.
pub(crate) fn dims() -> Dims {
    Dims {
        image_size: 28,
        patch_size: 7,
        channels: 1,
        classes: 10,
        width: 32,
        depth: 3,
        heads: 4,
        ffn: 64,
        architecture: Architecture::default(),
    }
}

/// A small model of each family, of grey images and 10 classes.
pub(crate) fn families() -> Vec<Dims> {
    let of = |architecture| Dims {
        architecture,
        ..dims()
    };
    let plain = Architecture::default();
    vec![
        of(plain),
        of(Architecture {
            distilled: Distilled::TokenAndHead,
            ..plain
        }),
        of(Architecture {
            distilled: Distilled::Token,
            norm_eps: 1e-12,
            ..plain
        }),
        of(Architecture {
            layer_scale: Some(0.1),
            ..plain
        }),
        Dims {
            image_size: 48,
            patch_size: 16,
            ..of(Architecture {
                stem: Stem::T2t,
                qkv_bias: false,
                qk_scale: QkScale::Width,
                norm_eps: 1e-5,
                ..plain
            })
        },
    ]
}

pub(crate) fn gates(input: GateInput, average: Average) -> GateConfig {
    GateConfig {
        decide: DecideBy::Input,
        input,
        average,
        hidden: 8,
        keep_init: 0.6,
        threshold: 0.0,
        threshold_shared: None,
        budget: None,
    }
}

/// The same gates, trained for budgets of 0.4 to 0.8 and run at 0.6.
pub(crate) fn seeing_budget(gate: GateConfig) -> GateConfig {
    GateConfig {
        budget: Some(GateBudget {
            lo: 0.4,
            hi: 0.8,
            target: 0.6,
        }),
        ..gate
    }
}

pub(crate) fn dense() -> Vit {
    dense_of(dims())
}

pub(crate) fn dense_of(dims: Dims) -> Vit {
    roughened(Config::dense(dims, vec![0.5], vec![0.25]))
}

pub(crate) fn gated(gate: GateConfig) -> Vit {
    gated_of(dims(), gate)
}

pub(crate) fn gated_of(dims: Dims, gate: GateConfig) -> Vit {
    roughened(Config {
        gate: Some(gate),
        ..Config::dense(dims, vec![0.5], vec![0.25])
    })
}

/// A new model moved far from its start, so that no part of it is too small to matter and gates
/// differ from sample to sample.
fn roughened(config: Config) -> Vit {
    let vit = Vit::new(config, 1, Device::Cpu).unwrap();
    no_grad(|| {
        for (index, param) in (100..).zip(vit.parameters()) {
            let scale = match &param.name {
                name if name.contains("gate") => 0.6,
                // Random features underflow for keys and queries that are long.
                name if name.contains("kqv") => 0.02,
                _ => 0.15,
            };
            let noise = normal(&param.tensor.size(), index);
            let _ = param.tensor.shallow_clone().g_add_(&(noise * scale));
        }
    });
    vit
}

pub(crate) fn images(dims: &Dims, batch: i64, index: u64) -> Tensor {
    normal(
        &[batch, dims.channels, dims.image_size, dims.image_size],
        index,
    )
}

pub(crate) fn normal(shape: &[i64], index: u64) -> Tensor {
    let count = shape.iter().product::<i64>() as usize;
    let values: Vec<f32> = rng(3, Stream::Init, 1, index)
        .sample_iter(StandardNormal)
        .take(count)
        .collect();
    Tensor::from_slice(&values).reshape(shape)
}

/// Asserts that two tensors agree to `tolerance` relative to the larger of 1 and the largest value.
#[track_caller]
pub(crate) fn assert_close(left: &Tensor, right: &Tensor, tolerance: f64) {
    assert_eq!(left.size(), right.size());
    let scale = right.abs().max().double_value(&[]).max(1.0);
    let distance = (left - right).abs().max().double_value(&[]);
    assert!(
        distance <= tolerance * scale,
        "{distance} apart, values up to {scale}"
    );
}
