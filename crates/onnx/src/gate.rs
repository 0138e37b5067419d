use espalier_config::{GateBudget, GateConfig};
use espalier_job::{Average, DecideBy, GateInput};

use crate::ExportError;
use crate::graph::Value;
use crate::model::{Decide, Exporter};

/// Epsilon of the gates' norms, whatever that of the model.
const NORM_EPS: f64 = 1e-6;

/// Keeps the logit of a mean probability finite when all samples are certain.
const EPS_PROBABILITY: f32 = 1e-6;

impl Exporter<'_> {
    /// Whether the module behind gate `name` runs, from the block's input: one bool for the batch,
    /// [], or one for each sample, [B].
    pub(crate) fn decide(
        &mut self,
        name: &str,
        gate: &GateConfig,
        x_BND: &Value<f32>,
    ) -> Result<Value<bool>, ExportError> {
        let GateConfig {
            decide,
            input,
            average,
            hidden,
            keep_init: _,
            threshold,
            threshold_shared,
            budget,
        } = *gate;
        self.scope(name, |this| {
            let margin = match (decide, this.decide) {
                (DecideBy::Input, Decide::Shared) => {
                    let margin_B = this.margin(input, hidden, budget, x_BND)?;
                    this.batch_margin(average, &margin_B)
                }
                (DecideBy::Input, Decide::PerSample) => {
                    this.margin(input, hidden, budget, x_BND)?
                }
                (DecideBy::Constant, Decide::Shared) => this.constant_margin()?,
                (DecideBy::Constant, Decide::PerSample) => {
                    let margin = this.constant_margin()?;
                    let margin = this.graph.reshape(&margin, &[1, 1]);
                    let batch_1 = this.graph.batch_by_ones(x_BND, 2);
                    let margin_B1 = this.graph.expand(&margin, &batch_1);
                    this.graph.reshape(&margin_B1, &[-1])
                }
                (DecideBy::Random, _) => return Err(ExportError::Random),
            };
            let alone = this.graph.scalar(threshold as f32);
            let threshold = match (this.decide, threshold_shared) {
                (Decide::Shared, Some(shared)) => {
                    let shared = this.graph.scalar(shared as f32);
                    this.graph.by_batch(x_BND, &alone, &shared)
                }
                _ => alone,
            };
            Ok(this.graph.greater(&margin, &threshold))
        })
    }

    /// z_keep - z_skip of each sample: [B, N, D] -> [B].
    fn margin(
        &mut self,
        input: GateInput,
        width_hidden: i64,
        budget: Option<GateBudget>,
        x_BND: &Value<f32>,
    ) -> Result<Value<f32>, ExportError> {
        let width = self.config.dims.width;
        let token_BD = match input {
            GateInput::Cls => self.graph.select(x_BND, 1, 0),
            GateInput::Mean => self.graph.mean(x_BND, 1),
        };
        let normed = self.layer_norm("norm", &token_BD, width, NORM_EPS)?;
        let mut hidden = self.linear("fc1", &normed, [width_hidden, width])?;
        if let Some(seen) = budget {
            let w_r = self.parameter("budget", &[width_hidden])?;
            let phi = self.graph.scalar(seen.phi() as f32);
            let moved_r = self.graph.mul(&w_r, &phi);
            hidden = self.graph.add(&hidden, &moved_r);
        }
        let hidden = self.gelu(&hidden);
        let z_B2 = self.linear("fc2", &hidden, [2, width_hidden])?;
        let (skip_B, keep_B) = (
            self.graph.select(&z_B2, 1, 0),
            self.graph.select(&z_B2, 1, 1),
        );
        Ok(self.graph.sub(&keep_B, &skip_B))
    }

    /// z_keep - z_skip of a gate that sees no input: [].
    fn constant_margin(&mut self) -> Result<Value<f32>, ExportError> {
        let logits_2 = self.parameter("logits", &[2])?;
        let (skip, keep) = (
            self.graph.select(&logits_2, 0, 0),
            self.graph.select(&logits_2, 0, 1),
        );
        Ok(self.graph.sub(&keep, &skip))
    }

    /// zbar_keep - zbar_skip of the batch: [B] -> [].
    fn batch_margin(&mut self, average: Average, margin_B: &Value<f32>) -> Value<f32> {
        let graph = &mut self.graph;
        match average {
            Average::Logits => graph.mean(margin_B, 0),
            Average::Probability => {
                let keep_B = graph.sigmoid(margin_B);
                let keep = graph.mean(&keep_B, 0);
                let keep = graph.clip(&keep, EPS_PROBABILITY, 1.0 - EPS_PROBABILITY);
                let one = graph.scalar(1.0);
                let skip = graph.sub(&one, &keep);
                let odds = graph.div(&keep, &skip);
                graph.log(&odds)
            }
        }
    }
}
