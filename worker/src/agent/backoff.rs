//! How long to wait before the next attempt.

use std::time::Duration;

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(2);

/// Waiting time after failed attempt number `attempt` (from 0): doubles up to a bound, half of it
/// drawn at random so that workers that lost the same coordinator do not return all at once.
pub(crate) fn delay(attempt: u32, seed: u64) -> Duration {
    let full = FIRST.saturating_mul(1 << attempt.min(16)).min(LONGEST);
    let mut rng = ChaCha8Rng::seed_from_u64(seed.wrapping_add(attempt.into()));
    full.mul_f64(rng.random_range(0.5..=1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_the_bound_and_differ_between_workers() {
        for seed in 0..50 {
            assert!(delay(0, seed) <= FIRST && delay(0, seed) >= FIRST / 2);
            assert!(delay(u32::MAX, seed) <= LONGEST && delay(u32::MAX, seed) >= LONGEST / 2);
            assert!(delay(3, seed) > delay(0, seed));
        }
        assert_ne!(delay(5, 1), delay(5, 2));
        assert_eq!(delay(5, 1), delay(5, 1));
    }
}
