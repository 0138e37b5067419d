use espalier_job::DistillationKind;
use tch::{Reduction, Tensor};

/// No class has this label, so that no sample is left out.
const NO_IGNORED: i64 = -100;

/// Cross-entropy with label smoothing, summed over the samples: [B, K], [B] of i64 -> scalar.
pub fn cross_entropy_sum(logits_BK: &Tensor, label_B: &Tensor, smoothing: f64) -> Tensor {
    logits_BK.cross_entropy_loss(
        label_B,
        None::<Tensor>,
        Reduction::Sum,
        NO_IGNORED,
        smoothing,
    )
}

/// Cross-entropy of mixed samples: each has a share of `label_B` in its target and the rest of
/// `other_B`, both smoothed: [B, K], two [B] of i64, [B] -> scalar.
pub fn mixed_cross_entropy_sum(
    logits_BK: &Tensor,
    label_B: &Tensor,
    other_B: &Tensor,
    share_B: &Tensor,
    smoothing: f64,
) -> Tensor {
    // Cross-entropy is linear in its target.
    let of = |label_B: &Tensor| {
        logits_BK.cross_entropy_loss(
            label_B,
            None::<Tensor>,
            Reduction::None,
            NO_IGNORED,
            smoothing,
        )
    };
    let loss_B: Tensor = of(label_B) * share_B + of(other_B) * (1.0 - share_B);
    loss_B.sum(logits_BK.kind())
}

/// KD, the distance to the dense teacher summed over the samples: two [B, K] -> scalar. [inferred]
///
/// Soft: T^2 * KL(teacher || student) of scores divided by T = `temperature`. Hard: cross-entropy
/// with the teacher's decision. The teacher gets no gradient.
pub fn distillation_sum(
    kind: DistillationKind,
    student_BK: &Tensor,
    teacher_BK: &Tensor,
    temperature: f64,
) -> Tensor {
    let teacher_BK = teacher_BK.detach();
    match kind {
        DistillationKind::Soft => {
            let log_p = |logits_BK: &Tensor| (logits_BK / temperature).log_softmax(-1, None);
            let kl = log_p(student_BK).kl_div(&log_p(&teacher_BK), Reduction::Sum, true);
            kl * (temperature * temperature)
        }
        DistillationKind::Hard => cross_entropy_sum(student_BK, &teacher_BK.argmax(-1, false), 0.0),
    }
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;

    /// timm's mixup_target: one-hot vectors, smoothed, added in their shares; then the soft cross-entropy.
    #[test]
    fn mixed_labels_are_timm_s_soft_targets() {
        tch::manual_seed(1);
        let (classes, smoothing) = (5, 0.1);
        let logits_BK = Tensor::randn([3, classes], (Kind::Double, Device::Cpu));
        let label_B = Tensor::from_slice(&[0_i64, 3, 2]);
        let other_B = Tensor::from_slice(&[4_i64, 3, 1]);
        let share_B = Tensor::from_slice(&[0.7_f64, 0.5, 1.0]);
        let smoothed = |label_B: &Tensor| {
            label_B.one_hot(classes).to_kind(Kind::Double) * (1.0 - smoothing)
                + smoothing / classes as f64
        };
        let share_B1 = share_B.unsqueeze(1);
        let target_BK: Tensor =
            smoothed(&label_B) * &share_B1 + smoothed(&other_B) * (1.0 - &share_B1);
        let product_BK: Tensor = target_BK * logits_BK.log_softmax(-1, None);
        let expected = -product_BK.sum(Kind::Double);
        let given = mixed_cross_entropy_sum(&logits_BK, &label_B, &other_B, &share_B, smoothing);
        assert!((given.double_value(&[]) - expected.double_value(&[])).abs() < 1e-12);

        let alone = Tensor::from_slice(&[1.0_f64; 3]);
        let given = mixed_cross_entropy_sum(&logits_BK, &label_B, &other_B, &alone, smoothing);
        let expected = cross_entropy_sum(&logits_BK, &label_B, smoothing);
        assert!((given.double_value(&[]) - expected.double_value(&[])).abs() < 1e-12);
    }
}
