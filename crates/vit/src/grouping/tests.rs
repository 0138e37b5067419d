use proptest::prelude::*;

use super::*;

fn policy() -> impl Strategy<Value = GroupingPolicy> {
    prop_oneof![
        Just(GroupingPolicy::Recursive),
        Just(GroupingPolicy::RecursiveRandom),
        Just(GroupingPolicy::TreeLevel),
        (1..40_u32).prop_map(GroupingPolicy::Uniform),
        (1..20_u32, 0..20_u32).prop_map(|(lo, more)| GroupingPolicy::Random { lo, hi: lo + more }),
        Just(GroupingPolicy::Whole),
    ]
}

fn only(policy: GroupingPolicy) -> [Grouping; 1] {
    [Grouping {
        policy,
        weight: 1.0,
    }]
}

/// Sizes of the groups of a plan, by id.
fn sizes_of(plan: &Plan) -> Vec<usize> {
    let mut sizes = vec![0; plan.ids.iter().max().map_or(0, |&last| last as usize + 1)];
    for &id in &plan.ids {
        sizes[id as usize] += 1;
    }
    sizes
}

proptest! {
    #[test]
    fn every_sample_is_in_one_group_and_no_group_is_empty(
        policy in policy(), seed: u64, step in 0..1000_u64, v in 0..64_u64, batch in 1..300_usize,
    ) {
        let plan = plan(&only(policy), seed, step, v, batch);
        prop_assert_eq!(plan.ids.len(), batch);
        prop_assert!(sizes_of(&plan).iter().all(|&size| size > 0));
    }

    #[test]
    fn plans_are_reproducible(
        policy in policy(), seed: u64, step: u64, v: u64, batch in 1..300_usize,
    ) {
        let again = || plan(&only(policy), seed, step, v, batch);
        prop_assert_eq!(again(), again());
    }

    #[test]
    fn sizes_are_as_the_policy_says(
        seed: u64, step in 0..1000_u64, batch in 1..300_usize, size in 1..40_u32, more in 0..20_u32,
    ) {
        let sizes = |policy| sizes_of(&plan(&only(policy), seed, step, 0, batch));
        prop_assert_eq!(sizes(GroupingPolicy::Whole), [batch]);

        let recursive = sizes(GroupingPolicy::Recursive);
        let mut rest = batch;
        for (index, &group) in recursive.iter().enumerate() {
            prop_assert_eq!(group, if index + 1 == recursive.len() { rest } else { rest.div_ceil(2) });
            rest -= group;
        }

        let uniform = sizes(GroupingPolicy::Uniform(size));
        let (last, whole) = uniform.split_last().unwrap();
        prop_assert!(whole.iter().all(|&group| group == size as usize));
        prop_assert!(*last <= size as usize);

        let random = sizes(GroupingPolicy::Random { lo: size, hi: size + more });
        let (last, whole) = random.split_last().unwrap();
        prop_assert!(whole.iter().all(|&group| (size..=size + more).contains(&(group as u32))));
        prop_assert!(*last <= (size + more) as usize);
    }

    #[test]
    fn plans_differ_over_micro_batches_and_steps(
        seed: u64, step in 0..1000_u64, v in 0..64_u64,
    ) {
        let ids = |step, v| plan(&only(GroupingPolicy::Recursive), seed, step, v, 64).ids;
        prop_assert_ne!(ids(step, v), ids(step, v + 1));
        prop_assert_ne!(ids(step, v), ids(step + 1, v));
    }
}

#[test]
fn recursive_halves() {
    let sizes = sizes_of(&plan(&only(GroupingPolicy::Recursive), 0, 0, 0, 256));
    assert_eq!(sizes, [128, 64, 32, 16, 8, 4, 2, 1, 1]);
}

#[test]
fn tree_level_takes_one_level_a_step() {
    let largest: Vec<usize> = (0..6)
        .map(|step| {
            let sizes = sizes_of(&plan(&only(GroupingPolicy::TreeLevel), 0, step, 0, 16));
            assert!(sizes.iter().all(|size| *size == sizes[0]));
            sizes[0]
        })
        .collect();
    assert_eq!(largest, [16, 8, 4, 2, 1, 16]);
}

#[test]
fn recursive_random_cuts_at_random() {
    let sizes = |v| sizes_of(&plan(&only(GroupingPolicy::RecursiveRandom), 0, 0, v, 64));
    assert_ne!(sizes(0), sizes(1));
}

#[test]
fn a_mix_follows_its_weights() {
    let weights = [
        (GroupingPolicy::Recursive, 7.0),
        (GroupingPolicy::Uniform(1), 2.0),
        (GroupingPolicy::Whole, 1.0),
    ];
    let mix = weights.map(|(policy, weight)| Grouping { policy, weight });
    let count = |policy| {
        let plans = (0..2000).map(|v| plan(&mix, 5, v / 8, v % 8, 8));
        plans.filter(|plan| plan.policy == policy).count() as f64 / 2000.0
    };
    for (policy, weight) in weights {
        let share = count(policy);
        assert!((share - weight / 10.0).abs() < 0.04, "{policy:?} {share}");
    }
}
