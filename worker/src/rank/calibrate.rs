//! Finds the gates' threshold at which hard MACs meet the target. [ours]
//!
//! Training holds the expected MACs to the target, while at inference a gate decides by the sign of
//! its margin alone. One threshold for all gates, moved until the hard ratio over held-out samples is
//! right, closes that gap.

/// A threshold and what it gives.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Calibration {
    /// A gate keeps its module where its margin is above this.
    pub threshold: f64,
    /// Hard MACs over those of the dense model.
    pub ratio: f64,
}

impl Calibration {
    fn miss(&self, target: f64) -> f64 {
        (self.ratio - target).abs()
    }
}

/// The ratio is taken to be met within this share of the target.
const TOLERANCE: f64 = 0.002;
/// Margins are differences of logits: beyond this, a gate is certain.
const WIDEST: f64 = 64.0;
/// Halvings of the bracket.
const BISECTIONS: usize = 16;

/// Bisects the threshold until `ratio` (of a threshold) meets `target`, and gives the best one seen.
///
/// A higher threshold skips more, but what is skipped changes what later gates see, so the ratio falls
/// with the threshold only nearly: the best seen need not be the last.
///
/// # Errors
/// Those of `ratio`.
pub(super) fn calibrate<E>(
    target: f64,
    mut ratio: impl FnMut(f64) -> Result<f64, E>,
) -> Result<Calibration, E> {
    let mut at = |threshold| ratio(threshold).map(|ratio| Calibration { threshold, ratio });
    let met = |seen: &Calibration| seen.miss(target) <= TOLERANCE * target;
    let mut best = at(0.0)?;
    // Thresholds with a ratio above and below the target.
    let (mut above, mut below) = (best, best);
    let mut reach = 0.5;
    let outward = if best.ratio > target { 1.0 } else { -1.0 };
    while !met(&best) && (above.ratio > target) == (below.ratio > target) && reach <= WIDEST {
        let seen = at(outward * reach)?;
        best = nearer(best, seen, target);
        if outward > 0.0 {
            (above, below) = (below, seen);
        } else {
            (below, above) = (above, seen);
        }
        reach *= 2.0;
    }
    let bracketed = above.ratio > target && below.ratio <= target;
    for _ in 0..BISECTIONS {
        if met(&best) || !bracketed {
            break;
        }
        let seen = at(f64::midpoint(above.threshold, below.threshold))?;
        best = nearer(best, seen, target);
        if seen.ratio > target {
            above = seen;
        } else {
            below = seen;
        }
    }
    Ok(best)
}

fn nearer(a: Calibration, b: Calibration, target: f64) -> Calibration {
    if b.miss(target) < a.miss(target) {
        b
    } else {
        a
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;

    fn run(target: f64, ratio: impl Fn(f64) -> f64) -> Calibration {
        calibrate(target, |threshold| Ok::<_, Infallible>(ratio(threshold))).unwrap()
    }

    /// 0.3 runs always; 0.6 hangs on gates whose margins are spread around `middle`.
    fn smooth(middle: f64) -> impl Fn(f64) -> f64 {
        move |threshold| 0.3 + 0.6 / (1.0 + (threshold - middle).exp())
    }

    proptest! {
        #[test]
        fn lands_on_the_target_where_it_can(target in 0.35_f64..0.85, middle in -20.0_f64..20.0) {
            let found = run(target, smooth(middle));
            prop_assert!((found.ratio - target).abs() < 0.002, "{found:?}");
            prop_assert_eq!(found.ratio, smooth(middle)(found.threshold));
        }
    }

    #[test]
    fn leaves_alone_what_is_right() {
        assert_eq!(run(0.6, |_| 0.6).threshold, 0.0);
    }

    #[test]
    fn takes_the_nearest_step_of_constant_gates() {
        let steps = |threshold: f64| match threshold {
            t if t < -3.0 => 0.9,
            t if t < 1.7 => 0.55,
            _ => 0.4,
        };
        assert_eq!(run(0.5, steps).ratio, 0.55);
        assert_eq!(run(0.45, steps).ratio, 0.4);
        assert_eq!(run(0.8, steps).ratio, 0.9);
    }

    #[test]
    fn gives_up_where_the_target_is_out_of_reach() {
        assert_eq!(
            run(0.2, smooth(0.0)).ratio.clamp(0.299, 0.301),
            run(0.2, smooth(0.0)).ratio
        );
    }
}
