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
    information_loss, information_sums, resource_loss,
};
use tch::{Device, Kind, Tensor};

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
    /// From the model's output, the labels `[B]`, and the teacher's scores `[B, K]` if it has one.
    pub(super) fn new(
        output: Output,
        sizes: Sizes,
        label_B: &Tensor,
        teacher_BK: Option<&Tensor>,
        train: &Train,
    ) -> Self {
        let distillation = train.distillation.as_ref().zip(teacher_BK);
        let (of_labels_BK, of_teacher_BK) = match (&output.dist_BK, distillation) {
            (Some(dist_BK), Some(_)) => (&output.cls_BK, dist_BK),
            _ => (&output.logits_BK, &output.logits_BK),
        };
        Self {
            cross_entropy: cross_entropy_sum(of_labels_BK, label_B, train.label_smoothing),
            distillation: distillation.map(|(asked, teacher_BK)| {
                distillation_sum(asked.kind, of_teacher_BK, teacher_BK, asked.temperature)
            }),
            correct: output
                .logits_BK
                .argmax(-1, false)
                .eq_tensor(label_B)
                .sum(Kind::Double),
            samples: label_B.size()[0],
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
