use espalier_config::{Config, Dims};
use espalier_job::Architecture;
use prost::Message as _;

use crate::ExportError;
use crate::error::LARGEST;
use crate::graph::{Builder, Dim, Value, info};
use crate::proto::ValueInfoProto;
use crate::proto::{GraphProto, ModelProto, OperatorSetIdProto, StringStringEntryProto};
use crate::weights::Weights;

/// Opset 17 is the first with LayerNormalization; IR version 8 came with it, so every runtime of
/// the opset reads the file.
const OPSET: i64 = 17;
const IR_VERSION: i64 = 8;

/// Name of the input: normalised pixels, f32 [B, C, side, side].
const PIXELS: &str = "pixels";
/// Name of the class scores: f32 [B, K].
const LOGITS: &str = "logits";
/// Name of which modules ran: bool, [M] when the batch decides and [B, M] when its samples do.
const DECISIONS: &str = "decisions";

/// Who decides which modules run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decide {
    /// The batch as one group: a module it skips is not run.
    Shared,
    /// Every sample alone: modules run on the whole batch, and a sample that skips one takes
    /// nothing from it. Right for any batch, and no faster than the model without gates.
    PerSample,
}

/// Builds the graph of one model.
pub(crate) struct Exporter<'a> {
    pub(crate) config: &'a Config,
    pub(crate) weights: Weights<'a>,
    pub(crate) graph: Builder,
    pub(crate) decide: Decide,
    /// Of each module so far; none where nothing decides.
    pub(crate) decisions: Vec<Option<Value<bool>>>,
}

/// The bytes of the ONNX file of a model: `weights` are those of its safetensors file.
///
/// Input `pixels` f32 [B, C, side, side], normalised with the configuration's mean and std; outputs
/// `logits` f32 [B, K] and, when there are gates, `decisions` bool, whether each module ran: [M] in
/// shared mode, [B, M] per sample. Modules count as MHSA of block 0, FFN of block 0, MHSA of block 1...
///
/// # Errors
/// A configuration that describes no model, weights that are not of it, a model of 2 GiB or more.
pub fn encode(config: &Config, weights: &[u8], decide: Decide) -> Result<Vec<u8>, ExportError> {
    config.check()?;
    // Each of these has its place in the graph. A field that is added does not compile here until it
    // has one too, or is refused.
    let Config {
        dims:
            Dims {
                architecture:
                    Architecture {
                        stem: _,
                        distilled: _,
                        layer_scale: _,
                        qkv_bias: _,
                        qk_scale: _,
                        norm_eps: _,
                    },
                ..
            },
        structure: _,
        gate: _,
        // Of other budgets than the one that the graph runs at.
        budgets: _,
        mean: _,
        std: _,
    } = config;
    // Known before anything is copied; the graph adds little to the weights.
    within_limit(weights.len() as u64)?;
    let exporter = Exporter {
        config,
        weights: Weights::parse(weights)?,
        graph: Builder::new(),
        decide,
        decisions: Vec::new(),
    };
    let model = ModelProto {
        ir_version: Some(IR_VERSION),
        opset_import: vec![OperatorSetIdProto {
            domain: Some(String::new()),
            version: Some(OPSET),
        }],
        producer_name: Some("espalier".to_owned()),
        producer_version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        metadata_props: metadata(config, decide),
        graph: Some(exporter.graph()?),
        ..ModelProto::default()
    };
    within_limit(model.encoded_len() as u64)?;
    Ok(model.encode_to_vec())
}

fn within_limit(bytes: u64) -> Result<(), ExportError> {
    if bytes > LARGEST {
        return Err(ExportError::TooLarge { bytes });
    }
    Ok(())
}

/// What a program needs besides the graph: how to normalise, and who decides.
fn metadata(config: &Config, decide: Decide) -> Vec<StringStringEntryProto> {
    let mut entries = vec![
        ("mean", format!("{:?}", config.mean)),
        ("std", format!("{:?}", config.std)),
    ];
    if config.gate.is_some() {
        let mode = match decide {
            Decide::Shared => "shared",
            Decide::PerSample => "per-sample",
        };
        entries.push(("gates", mode.to_owned()));
    }
    let entry = |(key, value): (&str, String)| StringStringEntryProto {
        key: Some(format!("espalier.{key}")),
        value: Some(value),
    };
    entries.into_iter().map(entry).collect()
}

impl Exporter<'_> {
    fn graph(mut self) -> Result<GraphProto, ExportError> {
        let dims = self.config.dims;
        let side = Dim::Fixed(dims.image_size);
        let input = info::<f32>(PIXELS, &[Dim::Batch, Dim::Fixed(dims.channels), side, side]);
        let pixels_BCHW = Value::named(PIXELS);
        let mut x_BND = self.embed(&pixels_BCHW)?;
        for (l, structure) in self.config.structure.blocks.iter().enumerate() {
            x_BND = self.scope(&format!("blocks.{l}"), |this| this.block(x_BND, structure))?;
        }
        let logits_BK = self.classify(&x_BND)?;

        let shape = [Dim::Batch, Dim::Fixed(dims.classes)];
        let mut outputs = vec![self.graph.rename(&logits_BK, LOGITS, &shape)];
        if self.config.gate.is_some() {
            outputs.push(self.output_decisions(&pixels_BCHW));
        }
        self.weights.finish()?;
        Ok(self.graph.finish("espalier", input, outputs))
    }

    fn output_decisions(&mut self, pixels_BCHW: &Value<f32>) -> ValueInfoProto {
        let graph = &mut self.graph;
        let modules = Dim::Fixed(self.config.dims.modules());
        // The shape of one module's column, what a dropped module has there, and the axis of modules.
        let (column, dropped, axis, shape) = match self.decide {
            Decide::Shared => (vec![1], graph.boolean(false, &[1]), 0, vec![modules]),
            Decide::PerSample => {
                let never = graph.boolean(false, &[1, 1]);
                let batch_1 = graph.batch_by_ones(pixels_BCHW, 2);
                let never_B1 = graph.expand(&never, &batch_1);
                (vec![-1, 1], never_B1, 1, vec![Dim::Batch, modules])
            }
        };
        let columns: Vec<Value<bool>> = self
            .decisions
            .iter()
            .map(|decision| match decision {
                Some(keep) => graph.reshape(keep, &column),
                None => dropped.clone(),
            })
            .collect();
        let columns: Vec<&Value<bool>> = columns.iter().collect();
        let decisions = graph.concat(&columns, axis);
        graph.rename(&decisions, DECISIONS, &shape)
    }
}
