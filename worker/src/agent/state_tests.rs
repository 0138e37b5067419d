use proptest::prelude::*;

use super::*;

fn order(job: &str, generation: u64, rank_count: u32) -> StartGang {
    StartGang {
        job_id: job.to_owned(),
        generation,
        world_size: 8,
        first_rank: 2,
        rank_count,
        ..StartGang::default()
    }
}

fn revoke(job: &str, generation: u64) -> Revoke {
    Revoke {
        job_id: job.to_owned(),
        generation,
        reason: "a worker was lost".to_owned(),
    }
}

fn started(actions: &[Action]) -> Option<&[u32]> {
    match actions.last() {
        Some(Action::Start { slots, .. }) => Some(slots),
        _ => None,
    }
}

#[test]
fn a_gang_takes_the_lowest_free_slots() {
    let mut state = State::new(4);
    assert_eq!(
        started(&state.start(order("a", 1, 2))),
        Some([0, 1].as_slice())
    );
    assert_eq!(
        started(&state.start(order("b", 2, 1))),
        Some([2].as_slice())
    );
    state.ended(&GangKey::new("a", 1));
    assert_eq!(
        started(&state.start(order("c", 3, 3))),
        Some([0, 1, 3].as_slice())
    );
}

#[test]
fn a_gang_that_does_not_fit_is_refused_rank_by_rank() {
    let mut state = State::new(1);
    let actions = state.start(order("a", 1, 2));
    let [Action::Refuse { ranks, reason, .. }] = actions.as_slice() else {
        panic!("{actions:?}");
    };
    assert_eq!(ranks, &[2, 3]);
    assert_eq!(reason, "2 ranks asked for, 1 of 1 slots are free");
    assert_eq!(state.running().count(), 0);
}

#[test]
fn ranks_outside_the_gang_are_refused() {
    let mut state = State::new(8);
    for rank_count in [0, 7, u32::MAX] {
        let actions = state.start(order("a", u64::from(rank_count) + 1, rank_count));
        assert!(
            matches!(actions.as_slice(), [Action::Refuse { .. }]),
            "{actions:?}"
        );
    }
}

#[test]
fn a_newer_generation_replaces_an_older_one_in_its_slots() {
    let mut state = State::new(1);
    state.start(order("a", 5, 1));
    let actions = state.start(order("a", 9, 1));
    assert!(matches!(&actions[0], Action::Stop { gang, .. } if gang.generation == 5));
    assert_eq!(started(&actions), Some([0].as_slice()));
}

#[test]
fn what_is_stale_is_ignored() {
    let mut state = State::new(2);
    state.start(order("a", 5, 1));
    for generation in [4, 5] {
        let actions = state.start(order("a", generation, 1));
        assert!(
            matches!(actions.as_slice(), [Action::Ignore { .. }]),
            "{actions:?}"
        );
    }
    assert!(matches!(
        state.revoke(&revoke("a", 4)),
        Action::Ignore { .. }
    ));
    assert!(matches!(
        state.revoke(&revoke("a", 6)),
        Action::Ignore { .. }
    ));
    let late = state.start(order("a", 6, 1));
    assert!(
        matches!(late.as_slice(), [Action::Ignore { .. }]),
        "{late:?}"
    );
    assert!(matches!(state.revoke(&revoke("a", 5)), Action::Stop { .. }));
}

proptest! {
    #[test]
    fn slots_are_never_shared_and_generations_only_grow(
        messages in prop::collection::vec((0..3_u8, 0..3_u8, 1..20_u64, 0..4_u32), 0..80)
    ) {
        let mut state = State::new(4);
        let mut started: BTreeMap<String, u64> = BTreeMap::new();
        for (kind, job, generation, count) in messages {
            let job = format!("job{job}");
            match kind {
                0 => {
                    for action in state.start(order(&job, generation, count)) {
                        if let Action::Start { gang, .. } = action {
                            let before = started.insert(gang.job_id, gang.generation);
                            prop_assert!(before < Some(generation));
                        }
                    }
                }
                1 => { state.revoke(&revoke(&job, generation)); }
                _ => state.ended(&GangKey::new(&job, generation)),
            }
            let used: Vec<u32> = state.running.values().flatten().copied().collect();
            let distinct: BTreeSet<u32> = used.iter().copied().collect();
            prop_assert_eq!(used.len(), distinct.len());
            prop_assert!(distinct.iter().all(|&slot| slot < 4));
            let jobs: BTreeSet<&String> = state.running.keys().map(|gang| &gang.job_id).collect();
            prop_assert_eq!(jobs.len(), state.running.len());
        }
    }
}
