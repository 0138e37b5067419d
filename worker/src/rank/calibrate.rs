//! Finds the gates' threshold at which hard MACs meet the target. [ours]
//!
//! Training holds the expected MACs to the target, while at inference a gate decides by the sign of
//! its margin alone. One threshold for all gates, moved until the hard ratio over held-out samples is
//! right, closes that gap. Gates that hardly depend on their input have all margins in a narrow band, which a
//! blind search would step over, so the threshold is looked for among the margins themselves.

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

    /// Whether the ratio is the target, to what a set of samples can tell.
    pub(super) fn meets(&self, target: f64) -> bool {
        self.miss(target) <= TOLERANCE * target
    }
}

/// What a set of samples shows under some threshold.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Look {
    /// Hard MACs over those of the dense model.
    pub ratio: f64,
    /// Of every sample and gate: its margin, and what the ratio gains when the module runs for it.
    pub margins: Vec<(f32, f64)>,
}

/// The ratio is taken to be met within this share of the target.
const TOLERANCE: f64 = 0.002;
/// Looks at the samples, at most. Two or three are usual.
const LOOKS: usize = 24;
/// Every so many looks the range is halved instead of trusting what the last look foretells.
const HALVED: usize = 3;

/// Moves the threshold from `start` until the ratio that `look` shows (of a threshold) meets `target`, and
/// gives the best one seen.
///
/// Were the margins to stay, one look would tell the threshold: it is one of their quantiles. But what is
/// skipped changes what later gates see, so it is looked again, between the thresholds that were too low and
/// too high; and as the ratio falls with the threshold only nearly, the best seen need not be the last.
///
/// # Errors
/// Those of `look`.
pub(super) fn calibrate<E>(
    start: f64,
    target: f64,
    mut look: impl FnMut(f64) -> Result<Look, E>,
) -> Result<Calibration, E> {
    let mut at = |threshold| {
        look(threshold).map(|seen| {
            let ratio = seen.ratio;
            (Calibration { threshold, ratio }, seen)
        })
    };
    let (mut best, mut seen) = at(start)?;
    let (mut low, mut high) = (f64::NEG_INFINITY, f64::INFINITY);
    let mut last = best;
    for round in 1..LOOKS {
        if best.meets(target) {
            break;
        }
        if last.ratio > target {
            low = last.threshold;
        } else {
            high = last.threshold;
        }
        let halve = round.is_multiple_of(HALVED);
        let Some(next) = seen.next(last.threshold, target, (low, high), halve) else {
            break;
        };
        (last, seen) = at(next)?;
        if last.miss(target) < best.miss(target) {
            best = last;
        }
    }
    Ok(best)
}

impl Look {
    /// The threshold to look at next, strictly inside of `range`: where the margins foretell the target, or
    /// in the middle of what they leave open. None when nothing is left in between.
    fn next(&self, threshold: f64, target: f64, range: (f64, f64), halve: bool) -> Option<f64> {
        let inside = |cut: &&Cut| cut.threshold > range.0 && cut.threshold < range.1;
        let cuts = self.cuts(threshold);
        let inside: Vec<&Cut> = cuts.iter().filter(inside).collect();
        let (Some(first), Some(last)) = (inside.first(), inside.last()) else {
            return middle(range);
        };
        let wanted = if halve {
            f64::midpoint(first.ratio, last.ratio)
        } else {
            target
        };
        let miss = |cut: &Cut| (cut.ratio - wanted).abs();
        inside
            .into_iter()
            .min_by(|a, b| miss(a).total_cmp(&miss(b)))
            .map(|cut| cut.threshold)
    }

    /// Every threshold that tells these margins apart, falling, and the ratio each would give were the
    /// margins to stay as they were seen under `threshold`.
    fn cuts(&self, threshold: f64) -> Vec<Cut> {
        let mut margins = self.margins.clone();
        margins.sort_by(|(a, _), (b, _)| b.total_cmp(a));
        let open = margins
            .iter()
            .filter(|(margin, _)| f64::from(*margin) > threshold);
        let mut ratio = self.ratio - open.map(|(_, gain)| gain).sum::<f64>();
        let mut cuts = Vec::with_capacity(margins.len() + 1);
        let ends = margins.first().zip(margins.last());
        let Some((&(highest, _), &(lowest, _))) = ends else {
            return cuts;
        };
        cuts.push(Cut {
            threshold: f64::from(highest) + BEYOND,
            ratio,
        });
        for (index, (margin, gain)) in margins.iter().enumerate() {
            ratio += gain;
            let below = margins.get(index + 1).map(|(below, _)| *below);
            if below == Some(*margin) {
                continue;
            }
            let threshold = below.map_or_else(
                || f64::from(lowest) - BEYOND,
                |below| f64::from(between(below, *margin)),
            );
            cuts.push(Cut { threshold, ratio });
        }
        cuts
    }
}

/// A threshold between two margins, and the ratio it would give.
struct Cut {
    threshold: f64,
    ratio: f64,
}

/// How far outside of all margins a threshold is put that opens or closes every gate.
const BEYOND: f64 = 1.0;

/// What separates two margins in their own precision, `low` not above it and `high` above it.
fn between(low: f32, high: f32) -> f32 {
    let middle = f32::midpoint(low, high);
    if middle < high { middle } else { low }
}

/// The middle of a range that has one.
fn middle((low, high): (f64, f64)) -> Option<f64> {
    let middle = f64::midpoint(low, high);
    (middle.is_finite() && high - low > 1e-6 * (1.0 + middle.abs())).then_some(middle)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;

    /// 0.1 always runs; each gate's margins are spread by `spread` around its middle. Where the first
    /// gate skips a sample, the second's margin moves by `shift`.
    #[derive(Clone, Copy, Debug)]
    struct Gates {
        middles: [f64; 2],
        spread: f64,
        shift: f64,
    }

    const SAMPLES: usize = 500;

    impl Gates {
        fn look(&self, threshold: f64) -> Look {
            let gains = [0.5 / SAMPLES as f64, 0.4 / SAMPLES as f64];
            let mut look = Look {
                ratio: 0.1,
                margins: Vec::new(),
            };
            for sample in 0..SAMPLES {
                let place = (sample as f64 + 0.5) / SAMPLES as f64 - 0.5;
                let first = (self.middles[0] + self.spread * place) as f32;
                let moved = if f64::from(first) > threshold {
                    0.0
                } else {
                    self.shift
                };
                // Another order of the samples than the first gate's.
                let place = ((sample * 7 % SAMPLES) as f64 + 0.5) / SAMPLES as f64 - 0.5;
                let second = (self.middles[1] + moved + self.spread * place) as f32;
                for (margin, gain) in [first, second].into_iter().zip(gains) {
                    look.margins.push((margin, gain));
                    look.ratio += if f64::from(margin) > threshold {
                        gain
                    } else {
                        0.0
                    };
                }
            }
            look
        }
    }

    fn run(target: f64, look: impl Fn(f64) -> Look) -> (Calibration, usize) {
        let mut looks = 0;
        let found = calibrate(0.0, target, |threshold| {
            looks += 1;
            Ok::<_, Infallible>(look(threshold))
        });
        (found.unwrap(), looks)
    }

    proptest! {
        /// However narrow the bands and wherever they are.
        #[test]
        fn lands_on_the_target(
            target in 0.12_f64..0.98,
            middles in prop::array::uniform2(-20.0_f64..20.0),
            spread in prop::sample::select(vec![0.003, 0.1, 2.0, 30.0]),
            shift in prop::sample::select(vec![0.0, -0.5, 0.5, 1e-3]),
        ) {
            let gates = Gates { middles, spread, shift };
            let (found, _) = run(target, |threshold| gates.look(threshold));
            prop_assert_eq!(found.ratio, gates.look(found.threshold).ratio);
            // One sample of one gate is 0.001 of all; a shift may tear a gap of whole gates.
            let reach = if shift == 0.0 { 0.001 + 0.002 * target } else { 0.45 };
            prop_assert!(found.miss(target) <= reach, "{found:?}");
        }
    }

    #[test]
    fn independent_gates_take_two_looks() {
        let gates = Gates {
            middles: [3.0, -8.0],
            spread: 1e-2,
            shift: 0.0,
        };
        let (found, looks) = run(0.75, |threshold| gates.look(threshold));
        assert!(found.meets(0.75) && looks == 2, "{found:?} after {looks}");
    }

    #[test]
    fn leaves_alone_what_is_right() {
        let (found, looks) = run(0.6, |_| Look {
            ratio: 0.6,
            margins: vec![(1.0, 0.1)],
        });
        assert_eq!((found.threshold, looks), (0.0, 1));
    }

    #[test]
    fn takes_the_nearest_step_of_constant_gates() {
        let steps = Gates {
            middles: [1.0, 2.0],
            spread: 0.0,
            shift: 0.0,
        };
        for (target, nearest) in [(0.28, 0.1), (0.31, 0.5), (0.9, 1.0)] {
            let (found, _) = run(target, |threshold| steps.look(threshold));
            assert!((found.ratio - nearest).abs() < 1e-9, "{target}: {found:?}");
        }
    }

    #[test]
    fn thresholds_tell_neighbouring_numbers_apart() {
        for low in [1.0_f32, -3.5e-7, 0.0, -40.0] {
            let high = low.next_up();
            let threshold = f64::from(between(low, high)) as f32;
            assert!(low <= threshold && high > threshold, "{low}");
        }
    }
}
