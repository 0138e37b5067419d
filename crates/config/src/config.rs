use espalier_job::{Adapt, Average, DecideBy, Gate, GateInput};
use serde::{Deserialize, Serialize};

use crate::{AtBudget, Dims, GateBudget};

/// What a model is, apart from its weights: the content of `config.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Dimensions of the dense model.
    pub dims: Dims,
    /// What of it is there.
    pub structure: Structure,
    /// The gates of the modules that are there; none in a plain or a statically pruned model.
    pub gate: Option<GateConfig>,
    /// The thresholds at some of the budgets that the model can be run at, by rising budget; none where it has
    /// one budget. [`Config::at_budget`] gives those in between. [ours]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub budgets: Vec<AtBudget>,
    /// Mean per channel of the pixels the model was trained on, scaled to 0..1.
    pub mean: Vec<f64>,
    /// Standard deviation per channel of the pixels the model was trained on, scaled to 0..1.
    pub std: Vec<f64>,
}

/// What of the dense model is there, block by block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Structure {
    /// L blocks.
    pub blocks: Vec<BlockStructure>,
}

/// What of a block is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlockStructure {
    /// h: heads of the MHSA; 0 when the module is dropped.
    pub heads: i64,
    /// n: neurons of the FFN, at least 8; 0 when the module is dropped.
    pub neurons: i64,
}

/// The gates.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GateConfig {
    /// What decides; the input, where a file does not say.
    #[serde(default)]
    pub decide: DecideBy,
    /// What a gate looks at, if it decides by the input.
    pub input: GateInput,
    /// What is averaged over a group, if it decides by the input.
    pub average: Average,
    /// Width of the hidden layer of a gate that decides by the input.
    pub hidden: i64,
    /// P(keep) at the start of training, in (0, 1).
    pub keep_init: f64,
    /// At evaluation a module runs when the group's zbar_keep - zbar_skip is above this. Training
    /// decides around 0; the threshold is calibrated afterwards so that hard MACs meet the target. [ours]
    ///
    /// Where chance decides, a draw of the standard logistic distribution takes the margin's place, so
    /// that P(keep) = 1 / (1 + exp(threshold)).
    pub threshold: f64,
    /// The threshold of several samples that decide together, in shared mode; where there is none, the
    /// other. The mean of a batch moves whole modules at once, so it meets the target elsewhere. [ours]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold_shared: Option<f64>,
    /// The budget that the gates see beside their input; none where they do not. [ours]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<GateBudget>,
}

/// Why a configuration describes no model.
#[derive(Debug, thiserror::Error, PartialEq)]
#[error("{field}: {reason}")]
pub struct ConfigError {
    /// Path of the field in `config.json`.
    pub field: String,
    /// What is wrong with it.
    pub reason: String,
}

impl Structure {
    /// The dense structure: every head and every neuron.
    pub fn full(dims: &Dims) -> Self {
        let block = BlockStructure {
            heads: dims.heads,
            neurons: dims.ffn,
        };
        Self {
            blocks: (0..dims.depth).map(|_| block).collect(),
        }
    }
}

impl GateConfig {
    /// The gates a job asks for in a model of width `dims.width`, at its budget `target`.
    pub fn from_job(gate: &Gate, target: f64, dims: &Dims) -> Self {
        let seen = gate.budgets.filter(|asked| asked.adapt == Adapt::Gates);
        Self {
            decide: gate.decide,
            input: gate.input,
            average: gate.average,
            hidden: ((gate.hidden_ratio * dims.width as f64).round() as i64).max(1),
            keep_init: gate.keep_init,
            threshold: 0.0,
            threshold_shared: None,
            budget: seen.map(|asked| GateBudget::new(&asked, target)),
        }
    }

    /// The threshold of a group of `samples` at evaluation.
    pub fn threshold_of(&self, samples: i64) -> f64 {
        match self.threshold_shared {
            Some(shared) if samples > 1 => shared,
            _ => self.threshold,
        }
    }
}

impl Config {
    /// A dense model without gates.
    pub fn dense(dims: Dims, mean: Vec<f64>, std: Vec<f64>) -> Self {
        Self {
            dims,
            structure: Structure::full(&dims),
            gate: None,
            budgets: Vec::new(),
            mean,
            std,
        }
    }

    /// Whether the numbers describe a model that can be built.
    ///
    /// # Errors
    /// The first field that does not fit, with its path.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.check_dims()?;
        self.check_structure()?;
        self.check_gate()?;
        self.check_budgets()?;
        self.check_pixels()
    }

    fn check_dims(&self) -> Result<(), ConfigError> {
        let dims = &self.dims;
        let fields = [
            ("image_size", dims.image_size),
            ("patch_size", dims.patch_size),
            ("channels", dims.channels),
            ("classes", dims.classes),
            ("width", dims.width),
            ("depth", dims.depth),
            ("heads", dims.heads),
            ("ffn", dims.ffn),
        ];
        for (name, value) in fields {
            require((1..=LARGEST).contains(&value), || {
                (
                    format!("dims.{name}"),
                    format!("{value} is not within 1..={LARGEST}"),
                )
            })?;
        }
        let divides = [
            ("patch_size", dims.patch_size, "image_size", dims.image_size),
            ("heads", dims.heads, "width", dims.width),
        ];
        for (name, part, of, whole) in divides {
            require(whole % part == 0, || {
                (
                    format!("dims.{name}"),
                    format!("{part} does not divide {of} = {whole}"),
                )
            })?;
        }
        self.check_architecture()
    }

    fn check_architecture(&self) -> Result<(), ConfigError> {
        let (dims, architecture) = (&self.dims, &self.dims.architecture);
        let fixed = architecture
            .stem
            .patch_size()
            .map_or(dims.patch_size, i64::from);
        require(dims.patch_size == fixed, || {
            (
                "dims.patch_size".to_owned(),
                format!("{} is not {fixed}, which the stem has", dims.patch_size),
            )
        })?;
        let positive = [
            ("norm_eps", architecture.norm_eps),
            ("layer_scale", architecture.layer_scale.unwrap_or(1.0)),
        ];
        for (name, value) in positive {
            require(value.is_finite() && value > 0.0, || {
                (
                    format!("dims.architecture.{name}"),
                    format!("{value} is not a number above 0"),
                )
            })?;
        }
        Ok(())
    }

    fn check_structure(&self) -> Result<(), ConfigError> {
        let blocks = &self.structure.blocks;
        require(blocks.len() as i64 == self.dims.depth, || {
            (
                "structure.blocks".to_owned(),
                format!(
                    "{} blocks where dims.depth = {}",
                    blocks.len(),
                    self.dims.depth
                ),
            )
        })?;
        for (l, block) in blocks.iter().enumerate() {
            let fields = [
                ("heads", block.heads, 1, self.dims.heads),
                (
                    "neurons",
                    block.neurons,
                    LEAST_NEURONS.min(self.dims.ffn),
                    self.dims.ffn,
                ),
            ];
            for (name, value, least, most) in fields {
                require(value == 0 || (least..=most).contains(&value), || {
                    (
                        format!("structure.blocks[{l}].{name}"),
                        format!("{value} is neither 0, dropped, nor within {least}..={most}"),
                    )
                })?;
            }
        }
        Ok(())
    }

    fn check_gate(&self) -> Result<(), ConfigError> {
        let Some(gate) = &self.gate else {
            return Ok(());
        };
        require((1..=LARGEST).contains(&gate.hidden), || {
            (
                "gate.hidden".to_owned(),
                format!("{} is not within 1..={LARGEST}", gate.hidden),
            )
        })?;
        require(gate.keep_init > 0.0 && gate.keep_init < 1.0, || {
            (
                "gate.keep_init".to_owned(),
                format!("{} is not between 0 and 1", gate.keep_init),
            )
        })?;
        let thresholds = [
            ("threshold", Some(gate.threshold)),
            ("threshold_shared", gate.threshold_shared),
        ];
        for (name, threshold) in thresholds {
            require(threshold.is_none_or(f64::is_finite), || {
                (format!("gate.{name}"), "is not finite".to_owned())
            })?;
        }
        Ok(())
    }

    fn check_pixels(&self) -> Result<(), ConfigError> {
        let fields = [("mean", &self.mean), ("std", &self.std)];
        for (name, values) in fields {
            let channels = self.dims.channels;
            require(values.len() as i64 == channels, || {
                (
                    name.to_owned(),
                    format!("{} values for {channels} channels", values.len()),
                )
            })?;
        }
        require(self.std.iter().all(|&std| std > 0.0), || {
            (
                "std".to_owned(),
                "holds a value that is not above 0".to_owned(),
            )
        })
    }
}

/// Neurons that a kept FFN has at least: below that it is no module but a trace of one, and no hardware is
/// faster for it.
const LEAST_NEURONS: i64 = 8;

/// Far above any real model, and small enough that products of three cannot overflow.
const LARGEST: i64 = 1 << 20;

fn require(holds: bool, problem: impl FnOnce() -> (String, String)) -> Result<(), ConfigError> {
    if holds {
        return Ok(());
    }
    let (field, reason) = problem();
    Err(ConfigError { field, reason })
}

#[cfg(test)]
mod tests {
    use espalier_job::Architecture;

    use super::*;

    #[test]
    fn a_kept_module_has_a_head_or_eight_neurons() {
        let dims = Dims {
            image_size: 8,
            patch_size: 4,
            channels: 1,
            classes: 2,
            width: 8,
            depth: 1,
            heads: 2,
            ffn: 16,
            architecture: Architecture::default(),
        };
        let mut config = Config::dense(dims, vec![0.5], vec![0.5]);
        let mut told = |heads, neurons| {
            config.structure.blocks[0] = BlockStructure { heads, neurons };
            config.check().map_err(|error| error.to_string())
        };
        for good in [(0, 0), (1, 8), (2, 12), (0, 16)] {
            assert_eq!(told(good.0, good.1), Ok(()));
        }
        assert_eq!(
            told(1, 7).unwrap_err(),
            "structure.blocks[0].neurons: 7 is neither 0, dropped, nor within 8..=16"
        );
        assert_eq!(
            told(3, 8).unwrap_err(),
            "structure.blocks[0].heads: 3 is neither 0, dropped, nor within 1..=2"
        );
    }
}
