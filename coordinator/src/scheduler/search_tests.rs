use proptest::prelude::*;

use super::*;

/// All sets of the candidates, in the order of preference: few evictions before many, of as many those
/// whose last is earlier, then the same for the parts.
fn all(n: usize) -> Vec<Vec<usize>> {
    let mut sets: Vec<Vec<usize>> = (0..1usize << n)
        .map(|bits| (0..n).filter(|index| bits >> index & 1 == 1).collect())
        .collect();
    sets.sort_by_key(|set: &Vec<usize>| {
        let from_the_last: Vec<usize> = set.iter().rev().copied().collect();
        (set.len(), from_the_last)
    });
    sets
}

/// What a set comes to, without the search's own bookkeeping; none if it is not allowed.
fn reaches(goal: &Goal, evictions: &[&Unit], shrinks: &[&Unit]) -> Option<bool> {
    for (gang, spare) in goal.spare.iter().enumerate() {
        let shrunk = shrinks.iter().filter(|unit| unit.gang == gang).count();
        let evicted = evictions.iter().any(|unit| unit.gang == gang);
        if shrunk > *spare as usize || (evicted && shrunk > 0) {
            return None;
        }
    }
    let freed = |purse: usize| -> u64 {
        let units = evictions.iter().chain(shrinks);
        units.filter(|u| u.purse == purse).map(|u| u.slots).sum()
    };
    if (0..goal.purses.len()).any(|purse| freed(purse) > goal.purses[purse]) {
        return None;
    }
    let able = goal.free.iter().enumerate().filter(|(worker, free)| {
        let units = evictions.iter().chain(shrinks);
        let parts = units.flat_map(|unit| &unit.frees);
        let more: u32 = parts
            .filter(|(on, _)| on == worker)
            .map(|(_, slots)| slots)
            .sum();
        free.is_some_and(|free| free + more >= goal.ranks)
    });
    Some(able.count() >= goal.workers && freed(goal.slots.0) >= goal.slots.1)
}

fn brute_force(goal: &Goal, evictions: &[Unit], shrinks: &[Unit]) -> Option<Found> {
    for chosen in all(evictions.len()) {
        let gone: Vec<&Unit> = chosen.iter().map(|index| &evictions[*index]).collect();
        for parts in all(shrinks.len()) {
            let shrunk: Vec<&Unit> = parts.iter().map(|index| &shrinks[*index]).collect();
            if reaches(goal, &gone, &shrunk) == Some(true) {
                return Some(Found {
                    evictions: chosen,
                    shrinks: parts,
                });
            }
        }
    }
    None
}

prop_compose! {
    /// Gangs with parts on a few workers, some of which may be shrunk, some evicted.
    fn case()(
        gangs in proptest::collection::vec(
            (proptest::collection::btree_map(0usize..4, 1u32..3, 1..4), 0u32..3, 0usize..3, any::<bool>()), 0..5),
        free in proptest::collection::vec(proptest::option::weighted(0.8, 0u32..3), 4),
        ranks in 1u32..4,
        workers in 1usize..4,
        owed in 0u64..3,
        limit in 0u64..6,
    ) -> (Goal, Vec<Unit>, Vec<Unit>) {
        let (mut evictions, mut shrinks) = (Vec::new(), Vec::new());
        for (gang, (parts, _, purse, evicts)) in gangs.iter().enumerate() {
            let usable = |worker: &usize| free[*worker].is_some();
            let frees: Vec<(usize, u32)> =
                parts.iter().filter(|(w, _)| usable(w)).map(|(w, s)| (*w, *s)).collect();
            let slots = parts.values().map(|slots| u64::from(*slots)).sum();
            if *evicts {
                evictions.push(Unit { gang, frees: frees.clone(), slots, purse: *purse });
            }
            for (worker, slots) in parts {
                let frees = frees.iter().copied().filter(|(on, _)| on == worker).collect();
                shrinks.push(Unit { gang, frees, slots: u64::from(*slots), purse: *purse });
            }
        }
        shrinks.truncate(7);
        let goal = Goal {
            ranks,
            workers,
            slots: (1, owed),
            free,
            spare: gangs.iter().map(|(parts, spare, ..)| (*spare).min(parts.len() as u32 - 1)).collect(),
            purses: vec![u64::MAX, u64::MAX, limit],
        };
        (goal, evictions, shrinks)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_smaller_set_is_enough((goal, evictions, shrinks) in case()) {
        let found = smallest(&goal, &evictions, &shrinks, BUDGET);
        prop_assert_eq!(found, brute_force(&goal, &evictions, &shrinks));
    }

    #[test]
    fn without_the_time_to_search_nothing_can_be_left_out_still(
        (goal, evictions, shrinks) in case(), budget in 0u64..40
    ) {
        let Some(found) = smallest(&goal, &evictions, &shrinks, budget) else {
            return Ok(());
        };
        let sets = |without: (usize, usize)| {
            let keep = |index: &usize, at: usize| *index != at;
            let evicted = found.evictions.iter().filter(|i| keep(i, without.0));
            let shrunk = found.shrinks.iter().filter(|i| keep(i, without.1));
            (
                evicted.map(|i| &evictions[*i]).collect::<Vec<_>>(),
                shrunk.map(|i| &shrinks[*i]).collect::<Vec<_>>(),
            )
        };
        let none = usize::MAX;
        let (gone, shrunk) = sets((none, none));
        prop_assert_eq!(reaches(&goal, &gone, &shrunk), Some(true));
        for index in &found.evictions {
            let (gone, shrunk) = sets((*index, none));
            prop_assert_ne!(reaches(&goal, &gone, &shrunk), Some(true));
        }
        for index in &found.shrinks {
            let (gone, shrunk) = sets((none, *index));
            prop_assert_ne!(reaches(&goal, &gone, &shrunk), Some(true));
        }
    }
}
