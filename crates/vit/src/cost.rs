use espalier_job::DecideBy;
use tch::{Device, Kind, Tensor};

use crate::latency::{self, LatencyTable};
use crate::stem::Stem;
use crate::{Dims, GateConfig, Structure};

/// Counts what one sample costs: multiply-accumulates (MACs), or the milliseconds of a table; and
/// parameters.
///
/// F = F_stem + sum_l [E_attn,l * F_attn(h_l) + E_ffn,l * F_ffn(n_l)] + F_gates + F_head, where E is
/// how often the module runs. [paper: what is counted; inferred: the formulas]
#[derive(Clone, Debug)]
pub struct Cost {
    dims: Dims,
    /// What a gate takes: MACs for a sample, and parameters. None without gates.
    gate_macs: i64,
    gate_params: i64,
    /// Where it counts time; without, MACs.
    table: Option<LatencyTable>,
}

/// Sizes of all modules as tensors, so that the cost can be differentiated.
#[derive(Debug)]
pub struct Sizes {
    /// p_attn[keep] of each block, [L].
    pub keep_attn_L: Tensor,
    /// p_ffn[keep] of each block, [L].
    pub keep_ffn_L: Tensor,
    /// Heads of each block if kept, expected or chosen, [L].
    pub heads_L: Tensor,
    /// Neurons of each block if kept, expected or chosen, [L].
    pub neurons_L: Tensor,
}

impl Sizes {
    /// The sizes of a chosen structure; no gradient.
    pub fn of(structure: &Structure, device: Device) -> Self {
        let column = |value: fn(i64, i64) -> i64| {
            let blocks = structure.blocks.iter();
            let values: Vec<f32> = blocks
                .map(|block| value(block.heads, block.neurons) as f32)
                .collect();
            Tensor::from_slice(&values).to_device(device)
        };
        Self {
            keep_attn_L: column(|heads, _| heads.signum()),
            keep_ffn_L: column(|_, neurons| neurons.signum()),
            heads_L: column(|heads, _| heads),
            neurons_L: column(|_, neurons| neurons),
        }
    }
}

impl Cost {
    /// The cost of models of these dimensions, with these gates before the modules that are there.
    pub fn new(dims: &Dims, gate: Option<&GateConfig>) -> Self {
        let width = dims.width;
        // An input's gate looks at one token: D r + 2 r for a hidden layer of r, and r where the budget is seen.
        let (gate_macs, gate_params) = match gate.map(|gate| (gate.decide, gate.hidden)) {
            Some((DecideBy::Input, hidden)) => {
                let seen = if gate.is_some_and(|gate| gate.budget.is_some()) {
                    hidden
                } else {
                    0
                };
                (
                    width * hidden + seen + 2 * hidden,
                    2 * width + linear(width, hidden) + seen + linear(hidden, 2),
                )
            }
            Some((DecideBy::Constant, _)) => (0, 2),
            Some((DecideBy::Random, _)) | None => (0, 0),
        };
        Self {
            dims: *dims,
            gate_macs,
            gate_params,
            table: None,
        }
    }

    /// The same in the milliseconds of `table`, which must fit the model. [ours]
    pub fn in_time(self, table: LatencyTable) -> Self {
        Self {
            table: Some(table),
            ..self
        }
    }

    /// The table, where it counts time.
    pub fn table(&self) -> Option<&LatencyTable> {
        self.table.as_ref()
    }

    /// F_attn(h) = 4 N D h d + 2 N N h d.
    pub fn attn(&self, heads: f64) -> f64 {
        if let Some(table) = &self.table {
            return latency::at(&table.attn, heads);
        }
        let (tokens, width) = (self.dims.tokens() as f64, self.dims.width as f64);
        let inner = heads * self.dims.head_dim() as f64;
        4.0 * tokens * width * inner + 2.0 * tokens * tokens * inner
    }

    /// F_ffn(n) = 2 N D n.
    pub fn ffn(&self, neurons: f64) -> f64 {
        if let Some(table) = &self.table {
            return latency::at(&table.ffn, neurons);
        }
        2.0 * self.dims.tokens() as f64 * self.dims.width as f64 * neurons
    }

    /// One gate. 0 without gates.
    pub fn gate(&self) -> f64 {
        // Gates that compute nothing take no time either.
        match &self.table {
            Some(table) if self.gate_macs > 0 => table.gate_ms,
            _ => self.gate_macs as f64,
        }
    }

    /// F_stem + F_head: embedding of the patches, and scores from the tokens that have a head.
    pub fn fixed(&self) -> f64 {
        if let Some(table) = &self.table {
            return table.fixed_ms;
        }
        let dims = &self.dims;
        (Stem::macs(dims) + dims.classifiers() * dims.width * dims.classes) as f64
    }

    /// F_full: the dense model, which has no gates.
    pub fn dense(&self) -> f64 {
        let block = self.attn(self.dims.heads as f64) + self.ffn(self.dims.ffn as f64);
        self.fixed() + self.dims.depth as f64 * block
    }

    /// Module m of `size` heads (even m) or neurons (odd m) that runs for the share `open` of the
    /// samples, and its gate, which looks at all of them. 0 for a dropped module.
    pub fn module(&self, m: usize, size: i64, open: f64) -> f64 {
        let macs = [Self::attn, Self::ffn][m % 2](self, size as f64);
        if size > 0 {
            open * macs + self.gate()
        } else {
            0.0
        }
    }

    /// A structure with every gate open.
    pub fn static_macs(&self, structure: &Structure) -> f64 {
        self.effective(structure, |_| 1.0)
    }

    /// A structure whose module m runs for the share `open(m)` of the samples.
    pub fn effective(&self, structure: &Structure, open: impl Fn(usize) -> f64) -> f64 {
        let blocks = structure.blocks.iter().enumerate().map(|(l, block)| {
            self.module(2 * l, block.heads, open(2 * l))
                + self.module(2 * l + 1, block.neurons, open(2 * l + 1))
        });
        self.fixed() + blocks.sum::<f64>()
    }

    /// P(keep) of gates that let every module run equally often, at which F of expected `sizes` is
    /// `target` times F_full; as near as a probability comes.
    pub fn even_rate(&self, sizes: &Sizes, target: f64) -> f64 {
        let at = |open: f64| {
            let mean_M = Tensor::full([self.dims.modules()], open, (Kind::Double, Device::Cpu));
            self.soft(sizes, &mean_M.to_device(sizes.heads_L.device()))
                .double_value(&[])
        };
        let (closed, open) = (at(0.0), at(1.0));
        if open <= closed {
            return 1.0;
        }
        ((target * self.dense() - closed) / (open - closed)).clamp(0.0, 1.0)
    }

    /// F of expected sizes and of the mean gates `mean_M`: a differentiable f64 scalar.
    ///
    /// A gate is there as far as its module is.
    pub fn soft(&self, sizes: &Sizes, mean_M: &Tensor) -> Tensor {
        let mean_2L = mean_M
            .to_kind(Kind::Double)
            .reshape([-1, 2])
            .transpose(0, 1);
        let double = |tensor: &Tensor| tensor.to_kind(Kind::Double);
        let module = |keep_L: &Tensor, cost_L: Tensor, open_L: Tensor| {
            double(keep_L) * (open_L * cost_L + self.gate())
        };
        // MACs are linear in the size.
        let (attn_L, ffn_L) = match &self.table {
            None => (
                double(&sizes.heads_L) * self.attn(1.0),
                double(&sizes.neurons_L) * self.ffn(1.0),
            ),
            Some(table) => (
                latency::at_each(&table.attn, &double(&sizes.heads_L)),
                latency::at_each(&table.ffn, &double(&sizes.neurons_L)),
            ),
        };
        let attn_L = module(&sizes.keep_attn_L, attn_L, mean_2L.get(0));
        let ffn_L = module(&sizes.keep_ffn_L, ffn_L, mean_2L.get(1));
        (attn_L + ffn_L).sum(Kind::Double) + self.fixed()
    }

    /// Learnable parameters of a structure, gates included.
    pub fn params(&self, structure: &Structure) -> i64 {
        let dims = &self.dims;
        let width = dims.width;
        let norm = 2 * width;
        let architecture = &dims.architecture;
        let scale = architecture.layer_scale.map_or(0, |_| width);
        let around = norm + scale + self.gate_params;
        let attn = |heads: i64| {
            let inner = heads * dims.head_dim();
            let qkv_bias = i64::from(architecture.qkv_bias) * 3 * inner;
            around + 3 * width * inner + qkv_bias + linear(inner, width)
        };
        let ffn = |neurons: i64| around + linear(width, neurons) + linear(neurons, width);
        let blocks = structure.blocks.iter().map(|block| {
            let attn = if block.heads > 0 {
                attn(block.heads)
            } else {
                0
            };
            let ffn = if block.neurons > 0 {
                ffn(block.neurons)
            } else {
                0
            };
            attn + ffn
        });
        let heads = dims.classifiers() * linear(width, dims.classes);
        Stem::params(dims) + blocks.sum::<i64>() + norm + heads
    }
}

/// Parameters of a linear layer with a bias.
fn linear(inputs: i64, outputs: i64) -> i64 {
    inputs * outputs + outputs
}
