use espalier_job::{Grouping, GroupingPolicy};
use espalier_random::{ChaCha8Rng, Rng as _, SliceRandom as _, Stream, rng};
use tch::Device;

use crate::groups::Groups;

/// How one micro-batch is cut into groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The policy it was drawn from.
    pub policy: GroupingPolicy,
    /// Group of each sample, [B]; ids run from 0 without a gap.
    pub ids: Vec<i64>,
}

impl Plan {
    /// The plan as tensors on `device`.
    pub fn groups(&self, device: Device) -> Groups {
        Groups::new(&self.ids, device)
    }
}

/// The grouping plan of micro-batch `micro_batch` of `step`: a pure function of its arguments, so that
/// workers train different groupings at any moment and none depends on who runs what. [ours]
///
/// The policy is drawn from `mix` by weight, the sizes follow the policy, and a permutation says
/// which samples land in which group. An empty `mix` is one group.
pub fn plan(mix: &[Grouping], seed: u64, step: u64, micro_batch: u64, batch: usize) -> Plan {
    let policy = draw_policy(mix, &mut rng(seed, Stream::Policy, step, micro_batch));
    let mut rng = rng(seed, Stream::Grouping, step, micro_batch);
    let sizes = sizes(policy, batch, step, &mut rng);
    let mut ids: Vec<i64> = sizes
        .iter()
        .enumerate()
        .flat_map(|(id, &size)| std::iter::repeat_n(id as i64, size))
        .collect();
    ids.shuffle(&mut rng);
    Plan { policy, ids }
}

fn draw_policy(mix: &[Grouping], rng: &mut ChaCha8Rng) -> GroupingPolicy {
    let total: f64 = mix.iter().map(|entry| entry.weight).sum();
    let mut point = rng.random::<f64>() * total;
    for entry in mix {
        if point < entry.weight {
            return entry.policy;
        }
        point -= entry.weight;
    }
    mix.last()
        .map_or(GroupingPolicy::Whole, |entry| entry.policy)
}

/// Sizes of the groups of a micro-batch of `batch`; they add up to it and none is 0.
fn sizes(policy: GroupingPolicy, batch: usize, step: u64, rng: &mut ChaCha8Rng) -> Vec<usize> {
    match policy {
        GroupingPolicy::Recursive => split(batch, |rest| rest.div_ceil(2)),
        GroupingPolicy::RecursiveRandom => split(batch, |rest| rng.random_range(1..rest)),
        GroupingPolicy::TreeLevel => {
            let levels = u64::from(batch.max(1).next_power_of_two().ilog2()) + 1;
            let parts = 1_usize << (step % levels);
            chunks(batch, || batch.div_ceil(parts))
        }
        GroupingPolicy::Uniform(size) => chunks(batch, || size as usize),
        GroupingPolicy::Random { lo, hi } => {
            chunks(batch, || rng.random_range(lo..=hi.max(lo)) as usize)
        }
        GroupingPolicy::Whole => chunks(batch, || batch),
    }
}

/// Cuts `keep(rest)` off the rest until one sample is left.
fn split(batch: usize, mut keep: impl FnMut(usize) -> usize) -> Vec<usize> {
    let mut sizes = Vec::new();
    let mut rest = batch;
    while rest > 1 {
        let kept = keep(rest);
        sizes.push(kept);
        rest -= kept;
    }
    sizes.extend((rest == 1).then_some(1));
    sizes
}

/// Cuts off one drawn size after another; the last group takes what is left.
fn chunks(batch: usize, mut size: impl FnMut() -> usize) -> Vec<usize> {
    let mut sizes = Vec::new();
    let mut rest = batch;
    while rest > 0 {
        let kept = size().clamp(1, rest);
        sizes.push(kept);
        rest -= kept;
    }
    sizes
}

#[cfg(test)]
mod tests;
