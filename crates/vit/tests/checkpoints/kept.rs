use espalier_job::{Architecture, Average, DecideBy, Distilled, GateInput, QkScale, Stem};
use espalier_random::{Rng as _, StandardNormal, Stream, rng};
use espalier_vit::{
    AtBudget, BlockStructure, Config, Dims, GateBudget, GateConfig, Structure, Vit,
};
use tch::{Device, Tensor, no_grad};

/// Samples of each kept checkpoint.
pub(crate) const BATCH: i64 = 8;

/// The budget that kept checkpoints with several are run at besides their own: between two calibrated ones.
pub(crate) const OTHER_BUDGET: f64 = 0.45;

/// A checkpoint that is kept: its folder's name and what the model is.
pub(crate) struct Kept {
    pub(crate) name: &'static str,
    pub(crate) config: Config,
    /// Where its noise begins: chosen so that gates differ from sample to sample, which a test asserts.
    noise: u64,
}

/// Between them: every stem, every kind of gate, every option of the architecture, and modules that
/// are whole, sliced and dropped.
pub(crate) fn kept() -> [Kept; 6] {
    let plain = Architecture::default();
    let t2t = Dims {
        image_size: 32,
        patch_size: 16,
        channels: 1,
        ..dims(Architecture {
            stem: Stem::T2t,
            qkv_bias: false,
            qk_scale: QkScale::Width,
            norm_eps: 1e-5,
            ..plain
        })
    };
    let distilled = dims(Architecture {
        distilled: Distilled::TokenAndHead,
        layer_scale: Some(0.1),
        ..plain
    });
    [
        Kept {
            name: "gated-cls",
            noise: 300,
            config: config(
                dims(plain),
                [(2, 24), (3, 32), (0, 16)],
                Some(gate(GateInput::Cls, Average::Logits, 0.25)),
            ),
        },
        Kept {
            name: "gated-mean-distilled",
            noise: 700,
            config: config(
                distilled,
                [(3, 32), (1, 0), (2, 8)],
                Some(gate(GateInput::Mean, Average::Probability, -0.25)),
            ),
        },
        Kept {
            name: "gated-t2t",
            noise: 1300,
            config: config(
                t2t,
                [(3, 16), (1, 32), (2, 24)],
                Some(GateConfig {
                    threshold_shared: Some(2.0),
                    ..gate(GateInput::Cls, Average::Logits, 0.0)
                }),
            ),
        },
        Kept {
            name: "gated-budgets",
            noise: 900,
            config: Config {
                budgets: [(0.4, 0.75, Some(0.5)), (0.6, 0.25, None), (0.8, -0.5, None)]
                    .map(|(budget, threshold, threshold_shared)| AtBudget {
                        budget,
                        threshold,
                        threshold_shared,
                    })
                    .to_vec(),
                ..config(
                    dims(plain),
                    [(2, 24), (3, 16), (1, 32)],
                    Some(GateConfig {
                        budget: Some(GateBudget {
                            lo: 0.4,
                            hi: 0.8,
                            target: 0.6,
                        }),
                        ..gate(GateInput::Mean, Average::Logits, 0.25)
                    }),
                )
            },
        },
        Kept {
            name: "gated-constant",
            noise: 500,
            config: config(
                dims(plain),
                [(3, 16), (2, 0), (1, 32)],
                Some(GateConfig {
                    decide: DecideBy::Constant,
                    ..gate(GateInput::Cls, Average::Logits, 0.1)
                }),
            ),
        },
        Kept {
            name: "static",
            noise: 100,
            config: config(dims(plain), [(2, 24), (0, 32), (3, 0)], None),
        },
    ]
}

impl Kept {
    /// The model, moved far from its start, so that no part of it is too small to matter.
    pub(crate) fn model(&self) -> Vit {
        let vit = Vit::new(self.config.clone(), 1, Device::Cpu).unwrap();
        no_grad(|| {
            for (index, param) in (self.noise..).zip(vit.parameters()) {
                let scale = match &param.name {
                    name if name.contains("gate") => 0.8,
                    // Random features underflow for keys and queries that are long.
                    name if name.contains("kqv") => 0.02,
                    _ => 0.3,
                };
                let noise = normal(&param.tensor.size(), index);
                let _ = param.tensor.shallow_clone().g_add_(&(noise * scale));
            }
        });
        vit
    }

    /// [B, C, side, side]
    pub(crate) fn pixels(&self) -> Tensor {
        let dims = &self.config.dims;
        normal(
            &[BATCH, dims.channels, dims.image_size, dims.image_size],
            99,
        )
    }
}

fn dims(architecture: Architecture) -> Dims {
    Dims {
        image_size: 16,
        patch_size: 4,
        channels: 3,
        classes: 5,
        width: 24,
        depth: 3,
        heads: 3,
        ffn: 32,
        architecture,
    }
}

fn gate(input: GateInput, average: Average, threshold: f64) -> GateConfig {
    GateConfig {
        decide: DecideBy::Input,
        input,
        average,
        hidden: 6,
        keep_init: 0.6,
        threshold,
        threshold_shared: None,
        budget: None,
    }
}

fn config(dims: Dims, blocks: [(i64, i64); 3], gate: Option<GateConfig>) -> Config {
    let channels = dims.channels as usize;
    Config {
        dims,
        structure: Structure {
            blocks: blocks
                .map(|(heads, neurons)| BlockStructure { heads, neurons })
                .to_vec(),
        },
        gate,
        budgets: Vec::new(),
        mean: vec![0.5; channels],
        std: vec![0.25; channels],
    }
}

fn normal(shape: &[i64], index: u64) -> Tensor {
    let count = shape.iter().product::<i64>() as usize;
    let values: Vec<f32> = rng(3, Stream::Init, 2, index)
        .sample_iter(StandardNormal)
        .take(count)
        .collect();
    Tensor::from_slice(&values).reshape(shape)
}
