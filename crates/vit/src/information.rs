//! What the gates tell of their input. [ours: against gates that decide the same for every sample]
//!
//! ```text
//! L_info = - sum_m [ H(mean_i p_im) - mean_i H(p_im) ]        p_im = sigmoid(margin of sample i, module m)
//! ```
//!
//! H is the entropy of a decision, in nats. The bracket is the mutual information of sample and decision:
//! 0 where a gate decides the same for all, ln 2 where it is certain of each and open for half.

use tch::{Kind, Tensor};

/// Sums over the samples of the margins [B, M]: (p, H(p)), f32 [M] each. A module whose margin is
/// infinite, because no gate was asked, tells nothing: it counts as undecided for every sample.
pub fn information_sums(margins_BM: &Tensor) -> (Tensor, Tensor) {
    let z_BM = margins_BM.masked_fill(&margins_BM.isinf(), 0.0);
    let p_BM = z_BM.sigmoid();
    // H(sigmoid(z)) = softplus(z) - z sigmoid(z), whose slope is finite however certain the gate is.
    let entropy_BM = z_BM.softplus() - &z_BM * &p_BM;
    let sum = |value: &Tensor| value.sum_dim_intlist(0, false, None);
    (sum(&p_BM), sum(&entropy_BM))
}

/// L_info from the means over the batch of p and of H(p), [M] each.
///
/// H of the mean is not linear, so of a micro-batch both are of [`crate::global_mean_M`].
pub fn information_loss(p_M: &Tensor, entropy_M: &Tensor) -> Tensor {
    let p_M = p_M.clamp(EPS, 1.0 - EPS);
    let q_M: Tensor = 1.0 - &p_M;
    let of_mean_M = -(&p_M * p_M.log()) - &q_M * q_M.log();
    (entropy_M - of_mean_M).sum(Kind::Double)
}

/// Keeps the slope of a certain mean finite.
const EPS: f64 = 1e-9;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// L_info of a whole batch, row by row.
    fn of(rows: &[[f64; 2]]) -> f64 {
        let margins_BM = Tensor::from_slice2(rows);
        let (p_M, entropy_M) = information_sums(&margins_BM);
        let samples = rows.len() as f64;
        information_loss(&(p_M / samples), &(entropy_M / samples)).double_value(&[])
    }

    fn entropy(p: f64) -> f64 {
        -p * p.ln() - (1.0 - p) * (1.0 - p).ln()
    }

    #[test]
    fn gates_that_decide_alike_tell_nothing() {
        assert!(of(&[[3.0, f64::INFINITY], [3.0, f64::INFINITY]]).abs() < 1e-12);
        assert!(of(&[[-40.0, f64::NEG_INFINITY]]).abs() < 1e-7);
        let halves = of(&[[60.0, 0.0], [-60.0, 0.0]]);
        assert!((halves + 2_f64.ln()).abs() < 1e-9, "{halves}");
    }

    proptest! {
        #[test]
        fn is_the_mutual_information(rows in prop::collection::vec(prop::array::uniform2(-20.0_f64..20.0), 1..12)) {
            let mean = |value: &dyn Fn(f64) -> f64, m: usize| {
                rows.iter().map(|row| value(row[m])).sum::<f64>() / rows.len() as f64
            };
            let p = |z: f64| 1.0 / (1.0 + (-z).exp());
            let expected: f64 = (0..2)
                .map(|m| mean(&|z| entropy(p(z)), m) - entropy(mean(&p, m)))
                .sum();
            prop_assert!((of(&rows) - expected).abs() < 1e-6, "{} {expected}", of(&rows));
            prop_assert!(of(&rows) <= 1e-9);
        }
    }

    #[test]
    fn certain_gates_have_a_slope() {
        let margins_BM = Tensor::from_slice(&[200_f32, -200.0, f32::INFINITY]).reshape([3, 1]);
        let margins_BM = margins_BM.set_requires_grad(true);
        let (p_M, entropy_M) = information_sums(&margins_BM);
        information_loss(&(p_M / 3.0), &(entropy_M / 3.0)).backward();
        assert!(bool::try_from(margins_BM.grad().isfinite().all()).unwrap());
    }
}
