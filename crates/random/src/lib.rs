//! Counter-based random numbers: every draw is a pure function of what it is for.
//!
//! A generator is keyed by (seed, stream, a, b): ChaCha8 with exactly these numbers as its key. No
//! generator outlives the thing it was made for, so nothing depends on how many draws others made,
//! on which rank runs the code, or on whether the step was run before.
#![forbid(unsafe_code)]

use rand::SeedableRng as _;
use rand_distr::{Beta, Distribution as _, Gumbel};

pub use rand::{Rng, seq::SliceRandom};
pub use rand_chacha::ChaCha8Rng;
pub use rand_distr::StandardNormal;

/// What random numbers are for. The numbers are part of a job's meaning: never change or reuse one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u64)]
pub enum Stream {
    /// First weights: (0, index of the parameter).
    Init = 1,
    /// Order of the samples: (epoch, 0).
    Shuffle = 2,
    /// Changes to a training image: (step, sample).
    Augment = 3,
    /// Which grouping policy a micro-batch takes: (step, micro-batch).
    Policy = 4,
    /// Which samples of a micro-batch share a group: (step, micro-batch).
    Grouping = 5,
    /// Gumbel noise of the gates: (step, micro-batch).
    GateGumbel = 6,
    /// Gumbel noise of the static choices: (step, 0).
    StaticGumbel = 7,
    /// Which training samples are held out for calibration: (0, 0).
    Calibration = 8,
    /// Permutation of gate patterns over samples, the shuffled-gates control: (0, 0).
    ShuffledGates = 9,
    /// Gates that decide by chance at evaluation, seeded by the images that decide: (0, 0).
    Chance = 10,
    /// The budget that the gates see at a step: (step, 0).
    Budget = 11,
    /// Which part of a training image is seen: (step, sample).
    Crop = 20,
    /// Operations on the colours and geometry of a training image: (step, sample).
    RandAugment = 21,
    /// What is erased of a training image: (step, sample).
    Erase = 22,
    /// Shares and rectangles of mixed images: (step, micro-batch).
    Mix = 23,
    /// What happens to a simulated cluster, no job's: (what is drawn, 0).
    Simulation = 1000,
}

/// The generator for (`seed`, `stream`, `a`, `b`).
pub fn rng(seed: u64, stream: Stream, a: u64, b: u64) -> ChaCha8Rng {
    let mut key = [0; 32];
    for (bytes, word) in key.chunks_exact_mut(8).zip([seed, stream as u64, a, b]) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    ChaCha8Rng::from_seed(key)
}

/// `count` draws of the standard Gumbel distribution, -ln(-ln(u)).
///
/// # Panics
/// Never: location 0 and scale 1 are valid.
pub fn gumbel(rng: &mut ChaCha8Rng, count: usize) -> Vec<f32> {
    let standard =
        Gumbel::<f32>::new(0.0, 1.0).unwrap_or_else(|_| unreachable!("scale 1 is valid"));
    standard.sample_iter(rng).take(count).collect()
}

/// `count` draws of the standard logistic distribution, each the difference of two Gumbel draws.
pub fn logistic(rng: &mut ChaCha8Rng, count: usize) -> Vec<f32> {
    let pairs = gumbel(rng, 2 * count);
    pairs
        .chunks_exact(2)
        .map(|pair| pair[1] - pair[0])
        .collect()
}

/// A draw of Beta(alpha, alpha), in [0, 1].
///
/// # Panics
/// If `alpha` is not above 0.
pub fn beta(rng: &mut ChaCha8Rng, alpha: f64) -> f64 {
    let beta = Beta::new(alpha, alpha).unwrap_or_else(|_| panic!("alpha is {alpha}, not above 0"));
    beta.sample(rng)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_the_key_matters() {
        let first = |seed, stream, a, b| rng(seed, stream, a, b).random::<u64>();
        let base = first(1, Stream::Shuffle, 2, 3);
        assert_eq!(base, first(1, Stream::Shuffle, 2, 3));
        for other in [
            first(9, Stream::Shuffle, 2, 3),
            first(1, Stream::Augment, 2, 3),
            first(1, Stream::Shuffle, 9, 3),
            first(1, Stream::Shuffle, 2, 9),
        ] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn draws_are_pinned() {
        // A change here changes the meaning of every job ever run.
        let draws: Vec<u32> = (0..3)
            .map(|step| rng(7, Stream::GateGumbel, step, 0).random())
            .collect();
        assert_eq!(draws, PINNED);
    }

    const PINNED: [u32; 3] = [877_253_213, 7_986_792, 4_052_341_598];

    #[test]
    fn logistic_has_its_quantiles() {
        let draws = logistic(&mut rng(0, Stream::Chance, 0, 0), 100_000);
        for threshold in [-2.0_f32, 0.0, 1.0] {
            let above = draws.iter().filter(|&&draw| draw > threshold).count() as f64 / 1e5;
            let expected = 1.0 / (1.0 + f64::from(threshold).exp());
            assert!((above - expected).abs() < 0.006, "{threshold}: {above}");
        }
    }

    #[test]
    fn gumbel_has_its_mean_and_variance() {
        let draws = gumbel(&mut rng(0, Stream::GateGumbel, 0, 0), 100_000);
        assert!(draws.iter().all(|g| g.is_finite()));
        let mean = draws.iter().map(|&g| f64::from(g)).sum::<f64>() / 1e5;
        let variance = draws
            .iter()
            .map(|&g| (f64::from(g) - mean).powi(2))
            .sum::<f64>()
            / 1e5;
        assert!((mean - 0.5772).abs() < 0.02, "mean {mean}");
        assert!((variance - 1.6449).abs() < 0.05, "variance {variance}");
    }

    #[test]
    fn beta_has_its_mean_and_variance() {
        let mut rng = rng(0, Stream::Mix, 0, 0);
        for alpha in [0.2, 0.8, 1.0, 4.0] {
            let draws: Vec<f64> = (0..50_000).map(|_| beta(&mut rng, alpha)).collect();
            assert!(draws.iter().all(|draw| (0.0..=1.0).contains(draw)));
            let mean = draws.iter().sum::<f64>() / 5e4;
            let variance = draws.iter().map(|draw| (draw - mean).powi(2)).sum::<f64>() / 5e4;
            let expected = 1.0 / (4.0 * (2.0 * alpha + 1.0));
            assert!((mean - 0.5).abs() < 0.01, "alpha {alpha}: mean {mean}");
            assert!(
                (variance - expected).abs() < 0.005,
                "alpha {alpha}: variance {variance}"
            );
        }
    }
}
