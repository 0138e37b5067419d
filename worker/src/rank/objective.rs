//! The loss of method section 6, cut into the parts of the micro-batches.
//!
//! ```text
//! L = CE + lambda * KD + gamma * L_res + mu * L_info
//! ```
//!
//! CE and KD are means over the global batch, so a micro-batch's part is its sum over W, the number
//! of samples of the step. L_res and L_info are not linear in the gates' means: they are taken at the
//! means of the global batch, and their gradients flow through the part of each micro-batch alone.
//!
//! A model whose distillation token has a head learns as DeiT does: the labels from the CLS token's
//! head, the teacher from the other's. (arXiv 2012.12877)

use espalier_job::Train;
use espalier_vit::{
    Budget, Cost, Output, Resource, Sizes, cross_entropy_sum, distillation_sum, global_mean_M,
    information_loss, information_sums, mixed_cross_entropy_sum, resource_loss,
};
use tch::{Device, Kind, Tensor};

/// What a micro-batch should be classified as.
#[derive(Debug)]
pub(super) struct Labels {
    /// `[B]`; of mixed samples the label with the larger share, which accuracy counts.
    pub label_B: Tensor,
    /// Of mixed samples: the other label, `[B]`, and the share of the first, `[B]`.
    pub mixed: Option<(Tensor, Tensor)>,
}

impl Labels {
    fn cross_entropy_sum(&self, logits_BK: &Tensor, smoothing: f64) -> Tensor {
        match &self.mixed {
            None => cross_entropy_sum(logits_BK, &self.label_B, smoothing),
            Some((other_B, share_B)) => {
                mixed_cross_entropy_sum(logits_BK, &self.label_B, other_B, share_B, smoothing)
            }
        }
    }
}

/// A micro-batch after its forward pass. The graph is kept until [`Part::loss`] is walked backward.
#[derive(Debug)]
pub(super) struct Part {
    open_M: Tensor,
    /// Sums of p and of H(p) over the samples, [M] each.
    information: (Tensor, Tensor),
    sizes: Sizes,
    cross_entropy: Tensor,
    distillation: Option<Tensor>,
    correct: Tensor,
    samples: i64,
}

impl Part {
    /// From the model's output, the labels, and the teacher's scores `[B, K]` if it has one.
    pub(super) fn new(
        output: Output,
        sizes: Sizes,
        labels: &Labels,
        teacher_BK: Option<&Tensor>,
        train: &Train,
    ) -> Self {
        let distillation = train.distillation.as_ref().zip(teacher_BK);
        let (of_labels_BK, of_teacher_BK) = match (&output.dist_BK, distillation) {
            (Some(dist_BK), Some(_)) => (&output.cls_BK, dist_BK),
            _ => (&output.logits_BK, &output.logits_BK),
        };
        Self {
            cross_entropy: labels.cross_entropy_sum(of_labels_BK, train.label_smoothing),
            distillation: distillation.map(|(asked, teacher_BK)| {
                distillation_sum(asked.kind, of_teacher_BK, teacher_BK, asked.temperature)
            }),
            correct: output
                .logits_BK
                .argmax(-1, false)
                .eq_tensor(&labels.label_B)
                .sum(Kind::Double),
            samples: labels.label_B.size()[0],
            information: information_sums(&output.margins_BM),
            open_M: output.open_M,
            sizes,
        }
    }

    /// What is summed over the ranks before the loss can be taken: f64 `[3 M + 4]`.
    fn sums(&self) -> Tensor {
        let double = |tensor: &Tensor| tensor.detach().to_kind(Kind::Double).reshape([-1]);
        let device = self.open_M.device();
        let distillation = match &self.distillation {
            Some(sum) => double(sum),
            None => Tensor::zeros([1], (Kind::Double, device)),
        };
        let samples = Tensor::full([1], self.samples, (Kind::Double, device));
        Tensor::cat(
            &[
                double(&self.open_M),
                double(&self.information.0),
                double(&self.information.1),
                samples,
                double(&self.cross_entropy),
                distillation,
                double(&self.correct),
            ],
            0,
        )
    }

    /// This micro-batch's part of L: the gradients of all parts add up to that of L.
    pub(super) fn loss(&self, global: &Global, objective: &Objective<'_>) -> Tensor {
        let mut sum = self.cross_entropy.shallow_clone();
        if let Some((distillation, lambda)) = self.distillation.as_ref().zip(objective.lambda()) {
            sum += distillation * lambda;
        }
        let mean_M =
            |sum_M: &Tensor, global_M: &Tensor| global_mean_M(sum_M, global_M, global.samples);
        let share = self.samples as f64 / global.samples;
        let open_M = mean_M(&self.open_M, &global.mean_M);
        let resource = objective.resource(&self.sizes, &open_M, share);
        let information = objective.information(
            &mean_M(&self.information.0, &global.keep_M),
            &mean_M(&self.information.1, &global.entropy_M),
        );
        sum / global.samples + resource.loss + information
    }
}

/// Sums over some of a step's micro-batches, f64 `[3 M + 4]`: gates, p, H(p), samples, CE, KD, hits.
pub(super) fn sums(parts: &[Part], modules: i64, device: Device) -> Tensor {
    let mut sums = Tensor::zeros([3 * modules + 4], (Kind::Double, device));
    for part in parts {
        sums += part.sums();
    }
    sums
}

/// The global batch of a step.
#[derive(Debug)]
pub struct Global {
    /// Mean of each module's gate, f64 `[M]`.
    pub mean_M: Tensor,
    /// Mean of p, the probability with which each module is kept, f64 `[M]`.
    pub keep_M: Tensor,
    /// Mean of H(p), f64 `[M]`.
    pub entropy_M: Tensor,
    /// W: samples.
    pub samples: f64,
    /// Mean cross-entropy.
    pub cross_entropy: f64,
    /// Mean distillation loss.
    pub distillation: f64,
    /// Share of samples classified right.
    pub accuracy: f64,
}

impl Global {
    /// From [`sums`] over all micro-batches of the step.
    pub fn new(sums: &Tensor) -> Self {
        let modules = (sums.size()[0] - 4) / 3;
        let value = |index: i64| sums.double_value(&[3 * modules + index]);
        let samples = value(0);
        let mean_M = |index: i64| sums.narrow(0, index * modules, modules) / samples;
        Self {
            mean_M: mean_M(0),
            keep_M: mean_M(1),
            entropy_M: mean_M(2),
            samples,
            cross_entropy: value(1) / samples,
            distillation: value(2) / samples,
            accuracy: value(3) / samples,
        }
    }
}

/// What a step minimises.
#[derive(Clone, Copy, Debug)]
pub(super) struct Objective<'a> {
    /// The job's losses.
    pub train: &'a Train,
    /// Counts MACs.
    pub cost: &'a Cost,
    /// What L_res asks for.
    pub budget: Budget,
    /// mu, the weight of L_info.
    pub information: f64,
}

impl Objective<'_> {
    /// L of the global batch, and its resource term. `sizes` are those of the step.
    pub(super) fn value(&self, global: &Global, sizes: &Sizes) -> (f64, Resource) {
        let resource = tch::no_grad(|| self.resource(sizes, &global.mean_M, 0.0));
        let distillation = self.lambda().unwrap_or(0.0) * global.distillation;
        let information = self.information(&global.keep_M, &global.entropy_M);
        let loss = global.cross_entropy
            + distillation
            + resource.loss.double_value(&[])
            + information.double_value(&[]);
        (loss, resource)
    }

    fn resource(&self, sizes: &Sizes, mean_M: &Tensor, share: f64) -> Resource {
        resource_loss(self.cost, sizes, mean_M, &self.budget, share)
    }

    /// mu * L_info.
    fn information(&self, p_M: &Tensor, entropy_M: &Tensor) -> Tensor {
        information_loss(p_M, entropy_M) * self.information
    }

    fn lambda(&self) -> Option<f64> {
        self.train.distillation.as_ref().map(|asked| asked.lambda)
    }
}

#[cfg(test)]
mod tests {
    use espalier_job::{Distillation, DistillationKind};
    use tch::Device;

    use super::*;

    fn train() -> Train {
        let mut train: Train =
            serde_json::from_str(r#"{ "global_batch": 2, "micro_batch": 2 }"#).unwrap();
        train.distillation = Some(Distillation {
            teacher: "teacher:dense".to_owned(),
            kind: DistillationKind::Hard,
            lambda: 1.0,
            temperature: 1.0,
        });
        train
    }

    fn rows(values: [f32; 6]) -> Tensor {
        Tensor::from_slice(&values).reshape([2, 3])
    }

    /// Scores of a model of one block without gates.
    fn output(dist_BK: Option<Tensor>) -> Output {
        let cls_BK = rows([2.0, 0.0, -1.0, 0.5, 1.5, 0.0]);
        Output {
            logits_BK: match &dist_BK {
                Some(dist_BK) => (&cls_BK + dist_BK) / 2.0,
                None => cls_BK.shallow_clone(),
            },
            cls_BK,
            dist_BK,
            open_M: Tensor::from_slice(&[2_f32; 2]),
            decisions_BM: Tensor::ones([2, 2], (Kind::Float, Device::Cpu)),
            margins_BM: Tensor::full([2, 2], f64::INFINITY, (Kind::Float, Device::Cpu)),
        }
    }

    fn sizes() -> Sizes {
        let one = || Tensor::from_slice(&[1_f32]);
        Sizes {
            keep_attn_L: one(),
            keep_ffn_L: one(),
            heads_L: one(),
            neurons_L: one(),
        }
    }

    /// Summed (cross-entropy, distillation).
    fn losses(dist_BK: Option<Tensor>, teacher_BK: Option<&Tensor>, train: &Train) -> (f64, f64) {
        let labels = Labels {
            label_B: Tensor::from_slice(&[0_i64, 2]),
            mixed: None,
        };
        let part = Part::new(output(dist_BK), sizes(), &labels, teacher_BK, train);
        let sums = part.sums();
        (sums.double_value(&[7]), sums.double_value(&[8]))
    }

    fn cross_entropy(rows: [[f64; 3]; 2], labels: [usize; 2]) -> f64 {
        let of = |(row, label): ([f64; 3], usize)| {
            row.map(f64::exp).iter().sum::<f64>().ln() - row[label]
        };
        rows.into_iter().zip(labels).map(of).sum()
    }

    #[test]
    fn with_a_head_of_its_own_the_distillation_token_learns_the_teacher_s_decision() {
        let cls = [[2.0, 0.0, -1.0], [0.5, 1.5, 0.0]];
        let dist = [[0.0, 1.0, 0.5], [-2.0, 0.25, 0.75]];
        let mean = [[1.0, 0.5, -0.25], [-0.75, 0.875, 0.375]];
        let dist_BK = || Some(rows([0.0, 1.0, 0.5, -2.0, 0.25, 0.75]));
        let teacher_BK = rows([0.0, 0.0, 3.0, 5.0, 1.0, 1.0]);
        let close = |(ce, kd): (f64, f64), expected_ce: f64, expected_kd: f64| {
            assert!((ce - expected_ce).abs() < 1e-5, "{ce} {expected_ce}");
            assert!((kd - expected_kd).abs() < 1e-5, "{kd} {expected_kd}");
        };
        close(
            losses(dist_BK(), Some(&teacher_BK), &train()),
            cross_entropy(cls, [0, 2]),
            cross_entropy(dist, [2, 0]),
        );
        close(
            losses(None, Some(&teacher_BK), &train()),
            cross_entropy(cls, [0, 2]),
            cross_entropy(cls, [2, 0]),
        );
        // Without a teacher both heads learn the label, as they are read.
        let alone = Train {
            distillation: None,
            ..train()
        };
        close(
            losses(dist_BK(), None, &alone),
            cross_entropy(mean, [0, 2]),
            0.0,
        );
    }
}
