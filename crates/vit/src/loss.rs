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
