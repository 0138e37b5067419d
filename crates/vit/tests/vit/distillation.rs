//! Losses against references in double precision, written out from their definitions.

use espalier_job::DistillationKind;
use espalier_vit::{cross_entropy_sum, distillation_sum};
use tch::{Kind, Tensor};

use crate::common::normal;

const SAMPLES: usize = 7;
const CLASSES: usize = 5;

/// f32 scores [B, K], and the same in f64, row by row.
fn scores(index: u64) -> (Tensor, Vec<Vec<f64>>) {
    let scores_BK = normal(&[SAMPLES as i64, CLASSES as i64], index) * 3.0;
    let rows = Vec::<Vec<f64>>::try_from(scores_BK.to_kind(Kind::Double)).unwrap();
    (scores_BK, rows)
}

fn log_softmax(row: &[f64], temperature: f64) -> Vec<f64> {
    let sum: f64 = row.iter().map(|z| (z / temperature).exp()).sum();
    row.iter().map(|z| z / temperature - sum.ln()).collect()
}

fn arg_max(row: &[f64]) -> usize {
    let scores = row.iter().enumerate();
    scores.max_by(|(_, a), (_, b)| a.total_cmp(b)).unwrap().0
}

/// The loss and its gradient in the student's scores: the reference's by central differences.
#[track_caller]
fn compare(loss: impl Fn(&Tensor) -> Tensor, reference: impl Fn(&[Vec<f64>]) -> f64) {
    let (student_BK, rows) = scores(1);
    let student_BK = student_BK.set_requires_grad(true);
    let found = loss(&student_BK);
    found.backward();
    let (found, expected) = (found.double_value(&[]), reference(&rows));
    assert!(
        (found - expected).abs() < 1e-5 * expected.abs(),
        "{found} {expected}"
    );
    for (sample, class) in [(0, 0), (3, 4), (6, 2)] {
        let moved = |by: f64| {
            let mut rows = rows.clone();
            rows[sample][class] += by;
            reference(&rows)
        };
        let slope = (moved(1e-5) - moved(-1e-5)) / 2e-5;
        let gradient = student_BK.grad();
        let gradient = gradient.double_value(&[sample as i64, class as i64]);
        assert!((gradient - slope).abs() < 1e-4, "{gradient} {slope}");
    }
}

#[test]
fn soft_is_the_divergence_from_the_teacher_times_the_temperature_squared() {
    let (teacher_BK, teacher) = scores(2);
    for temperature in [1.0, 2.5] {
        compare(
            |student| distillation_sum(DistillationKind::Soft, student, &teacher_BK, temperature),
            |student| {
                let rows = student.iter().zip(&teacher).map(|(student, teacher)| {
                    let log_q = log_softmax(student, temperature);
                    let log_p = log_softmax(teacher, temperature);
                    let classes = log_p.iter().zip(&log_q);
                    classes.map(|(p, q)| p.exp() * (p - q)).sum::<f64>()
                });
                rows.sum::<f64>() * temperature * temperature
            },
        );
    }
}

#[test]
fn hard_is_the_cross_entropy_with_the_teacher_s_decision() {
    let (teacher_BK, teacher) = scores(2);
    compare(
        |student| distillation_sum(DistillationKind::Hard, student, &teacher_BK, 3.0),
        |student| {
            let rows = student.iter().zip(&teacher);
            rows.map(|(student, teacher)| -log_softmax(student, 1.0)[arg_max(teacher)])
                .sum()
        },
    );
}

#[test]
fn smoothing_spreads_a_share_of_the_label_over_all_classes() {
    let labels = [0_i64, 4, 1, 1, 3, 2, 0];
    let smoothing = 0.2;
    compare(
        |student| cross_entropy_sum(student, &Tensor::from_slice(&labels), smoothing),
        |student| {
            let rows = student.iter().zip(labels).map(|(row, label)| {
                let log_q = log_softmax(row, 1.0);
                let even = log_q.iter().sum::<f64>() / CLASSES as f64;
                -(1.0 - smoothing) * log_q[label as usize] - smoothing * even
            });
            rows.sum()
        },
    );
}

#[test]
fn the_teacher_gets_no_gradient() {
    for kind in [DistillationKind::Soft, DistillationKind::Hard] {
        let (student_BK, _) = scores(1);
        let teacher_BK = scores(2).0.set_requires_grad(true);
        let student_BK = student_BK.set_requires_grad(true);
        distillation_sum(kind, &student_BK, &teacher_BK, 2.0).backward();
        assert!(!teacher_BK.grad().defined());
    }
}
