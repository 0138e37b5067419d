//! What the fake trainer computes: a state that comes out as it should only if every step was applied
//! once, in order, with every part of its samples, by ranks that all had the same state before.

use serde::{Deserialize, Serialize};

/// Micro-batches of a step.
const MICRO_BATCHES: u64 = 6;

/// What a job has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    /// Steps that are done.
    pub(crate) step: u64,
    /// Stands for the parameters.
    pub(crate) value: u64,
}

impl State {
    /// Before the first step.
    pub(crate) fn first(seed: u64) -> Self {
        Self {
            step: 0,
            value: mix(seed),
        }
    }

    /// After the next step, in which the ranks' parts added up to `sum`.
    pub(crate) fn next(self, sum: u64) -> Self {
        Self {
            step: self.step + 1,
            value: mix(self.value ^ mix(sum.wrapping_add(self.step))),
        }
    }

    /// Undisturbed.
    pub(crate) fn undisturbed(seed: u64, step: u64) -> Self {
        let mut state = Self::first(seed);
        while state.step < step {
            state = state.next(part(seed, state.step + 1, 0, 1));
        }
        state
    }
}

/// What a rank adds to a step: the sum over its micro-batches.
pub(crate) fn part(seed: u64, step: u64, rank: u32, world_size: u32) -> u64 {
    let (rank, world) = (u64::from(rank), u64::from(world_size));
    let own = rank * MICRO_BATCHES / world..(rank + 1) * MICRO_BATCHES / world;
    own.map(|micro_batch| mix(mix(seed ^ mix(step)) ^ micro_batch))
        .fold(0, u64::wrapping_add)
}

/// Splitmix64.
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_number_of_ranks_changes_nothing_but_a_missing_part_does(
            seed in any::<u64>(), step in 1..100_u64, world in 1..9_u32
        ) {
            let parts: Vec<u64> = (0..world).map(|rank| part(seed, step, rank, world)).collect();
            let sum = parts.iter().copied().fold(0, u64::wrapping_add);
            prop_assert_eq!(sum, part(seed, step, 0, 1));
            let before = State::undisturbed(seed, step - 1);
            prop_assert_eq!(before.next(sum), State::undisturbed(seed, step));
            prop_assert_ne!(before.next(sum.wrapping_sub(part(seed, step, 0, 1))), before.next(sum));
            prop_assert_ne!(before.next(sum).next(sum), before.next(sum));
        }
    }
}
