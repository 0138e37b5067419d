//! The report card, `report.json` of a published checkpoint. `docs/report.schema.json` is generated
//! from these types.

use std::collections::BTreeMap;

use espalier_job::{Damaged, DataFormat, DecideBy, Interpolation};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Values by inference batch size, as "1", "2", ...
pub(super) type ByBatch = BTreeMap<String, f64>;

/// What a finished checkpoint costs and how well it does, measured on the validation set with hard
/// decisions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReportCard {
    /// The job that trained it.
    pub job: String,
    /// Steps it was trained for.
    pub step: u64,
    /// The job's seed.
    pub seed: u64,
    /// What it was measured on.
    pub dataset: DatasetCard,
    /// Multiply-accumulates for one image.
    pub macs: MacsCard,
    /// The budget, where the job asked for one of time; otherwise it is that of `macs`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<TimeCard>,
    /// Parameters.
    pub params: ParamsCard,
    /// Size of `model.safetensors`, bytes.
    pub bytes: u64,
    /// Size of the dense model's parameters in the same format, bytes.
    pub bytes_dense: u64,
    /// Share of the validation set classified right.
    pub accuracy: AccuracyCard,
    /// How the gates behave.
    pub gates: GatesCard,
    /// Time of a forward on one thread, milliseconds; medians, the two models in turn in one process.
    pub latency_ms: LatencyCard,
    /// What the model gives at each budget that was calibrated, by rising budget; empty where it has one. All
    /// other figures are of `macs.target`.
    #[serde(default)]
    pub frontier: Vec<BudgetCard>,
}

/// The model at one of its budgets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BudgetCard {
    /// F_t: the MACs that were asked for, over those of the dense model.
    pub budget: f64,
    /// Share of the validation set classified right, every sample deciding alone.
    pub accuracy: f64,
    /// Hard MACs over those of the dense model, every sample deciding alone.
    pub effective_ratio: f64,
    /// As `accuracy`, in shared mode at an inference batch of 64.
    pub shared_accuracy: f64,
    /// As `effective_ratio`, in shared mode at an inference batch of 64.
    pub shared_ratio: f64,
    /// Different patterns of decisions that occur, every sample deciding alone.
    pub distinct_paths: u64,
}

/// The data that was measured on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DatasetCard {
    /// Layout of the files.
    pub format: DataFormat,
    /// Folder of the validation data when the job ran.
    pub validation: String,
    /// Validation samples.
    pub samples: u64,
    /// As `data.crop_pct` of the job.
    #[serde(default = "whole")]
    pub crop_pct: f64,
    /// As `data.interpolation` of the job.
    #[serde(default)]
    pub interpolation: Interpolation,
    /// As `data.damaged` of the job.
    #[serde(default)]
    pub damaged: Damaged,
    /// Digest of training and validation data together.
    pub digest: String,
    /// Digest of the validation data.
    pub validation_digest: String,
}

fn whole() -> f64 {
    1.0
}

/// Multiply-accumulates for one image. Ratios are over `dense`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MacsCard {
    /// The dense model.
    pub dense: f64,
    /// The sliced model with every gate open, gates included.
    #[serde(rename = "static")]
    pub static_part: f64,
    /// The sliced model with the gates' decisions in per-sample mode, mean over the validation
    /// set, gates included.
    pub effective: f64,
    /// The ratio that the job asked for, of MACs unless `budget` is there.
    pub target: f64,
    /// `static` over `dense`.
    pub static_ratio: f64,
    /// `effective` over `dense`.
    pub effective_ratio: f64,
    /// As `effective`, in shared mode by inference batch size.
    pub by_batch: ByBatch,
}

/// A budget of time, for one image, by the table that the job named: a sum over the modules, not a
/// measurement of this model, which is under `latency_ms`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TimeCard {
    /// What it counts: "milliseconds".
    pub unit: String,
    /// Where the table was measured.
    pub device: String,
    /// Images in a batch when it was measured.
    pub batch: u32,
    /// Threads when it was measured.
    pub threads: u32,
    /// The dense model.
    pub dense: f64,
    /// This model with the gates' decisions in per-sample mode, mean over the validation set.
    pub effective: f64,
    /// The ratio that the job asked for.
    pub target: f64,
    /// `effective` over `dense`.
    pub effective_ratio: f64,
}

/// Parameters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ParamsCard {
    /// Of the dense model.
    pub dense: u64,
    /// Of the published model, gates included.
    pub compressed: u64,
}

/// Share of the validation set classified right.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AccuracyCard {
    /// One decision for each inference batch, by its size.
    pub shared: ByBatch,
    /// Every sample decides alone.
    pub per_sample: f64,
}

/// How the gates behave over the validation set, in per-sample mode.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GatesCard {
    /// What decides whether a module runs: the input, a constant (the control), or chance (the
    /// baseline). Null without gates.
    #[serde(default)]
    pub decide: Option<DecideBy>,
    /// A gate keeps its module where keep logit - skip logit is above this; where chance decides, with
    /// probability 1 / (1 + exp(threshold)).
    pub threshold: f64,
    /// The same for several images that decide together, in shared mode; null where it is the same.
    #[serde(default)]
    pub threshold_shared: Option<f64>,
    /// Share of samples that run each module.
    pub rate: Vec<BlockRate>,
    /// Different patterns of decisions that occur. With 1 the gates are constant: they do not look
    /// at the input, and `constant` is true.
    pub distinct_paths: u64,
    /// Whether all samples take one path.
    pub constant: bool,
    /// Share of samples that take the most frequent path.
    pub top_path_share: f64,
    /// Accuracy minus accuracy with the patterns permuted over the samples. At or below 0, the
    /// dependence on the input is worth nothing.
    pub shuffle_gain: f64,
}

/// Share of samples that run the modules of a block; null where the module has no gate, because it
/// always runs or was removed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BlockRate {
    /// The block, from 0.
    pub block: u64,
    /// Its MHSA.
    pub attn: Option<f64>,
    /// Its FFN.
    pub ffn: Option<f64>,
}

/// Time of a forward by batch size, milliseconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LatencyCard {
    /// The dense model.
    pub dense: ByBatch,
    /// The published model in per-sample mode, skipping what its gates skip.
    pub compressed: ByBatch,
}

/// The JSON schema of `report.json`, as text.
pub fn schema() -> String {
    let schema = schemars::schema_for!(ReportCard);
    format!("{:#}\n", schema.to_value())
}

#[cfg(test)]
mod tests {
    use std::{env, fs, path::Path};

    use super::*;

    /// `ESPALIER_BLESS=1 cargo test -p espalier-worker` writes the file.
    #[test]
    fn the_committed_schema_is_current() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/report.schema.json");
        if env::var_os("ESPALIER_BLESS").is_some() {
            fs::write(&path, schema()).unwrap();
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), schema());
    }
}
