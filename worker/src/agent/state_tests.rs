use proptest::prelude::*;

use super::*;

fn order(job: &str, generation: u64, rank_count: u32) -> StartGang {
    StartGang {
        job_id: job.to_owned(),
        generation,
        world_size: 8,
        first_rank: 2,
        rank_count,
        seats: (0..u64::from(rank_count.min(9)))
            .map(|n| 10 * generation + n)
            .collect(),
        formation: Formation::Fresh.into(),
        ..StartGang::default()
    }
}

fn regroup(job: &str, generation: u64, seats: &[u64]) -> StartGang {
    StartGang {
        rank_count: seats.len() as u32,
        seats: seats.to_vec(),
        formation: Formation::Survivors.into(),
        ..order(job, generation, 0)
    }
}

fn recruits(job: &str, generation: u64, seats: &[u64]) -> Recruit {
    Recruit {
        job_id: job.to_owned(),
        generation,
        seats: seats.to_vec(),
        ..Recruit::default()
    }
}

fn revoke(job: &str, generation: u64) -> Revoke {
    Revoke {
        job_id: job.to_owned(),
        generation,
        reason: "a worker was lost".to_owned(),
    }
}

fn started(actions: &[Action]) -> Option<Vec<u32>> {
    match actions.last() {
        Some(Action::Start { slots, .. }) => Some(slots.values().copied().collect()),
        _ => None,
    }
}

#[test]
fn a_gang_takes_the_lowest_free_slots() {
    let mut state = State::new(4);
    assert_eq!(started(&state.start(order("a", 1, 2))), Some(vec![0, 1]));
    assert_eq!(started(&state.start(order("b", 2, 1))), Some(vec![2]));
    state.ended(&GangKey::new("a", 1));
    assert_eq!(started(&state.start(order("c", 3, 3))), Some(vec![0, 1, 3]));
}

#[test]
fn a_gang_that_does_not_fit_is_refused_rank_by_rank() {
    let mut state = State::new(1);
    let actions = state.start(order("a", 1, 2));
    let [Action::Refuse { seats, reason, .. }] = actions.as_slice() else {
        panic!("{actions:?}");
    };
    assert_eq!(seats, &BTreeMap::from([(10, 2), (11, 3)]));
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
    assert!(matches!(&actions[0], Action::Stop { generation: 5, .. }));
    assert_eq!(started(&actions), Some(vec![0]));
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
    let ended = state.revoke(&revoke("a", 6));
    assert!(matches!(ended, Action::Stop { generation: 6, .. }));
    let late = state.start(order("a", 6, 1));
    assert!(
        matches!(late.as_slice(), [Action::Ignore { .. }]),
        "{late:?}"
    );
}

#[test]
fn a_crew_lives_on_in_a_new_generation_with_those_that_have_a_seat() {
    let mut state = State::new(3);
    state.start(order("a", 5, 2));
    let actions = state.start(regroup("a", 7, &[51]));
    assert!(
        matches!(&actions[..], [Action::Regroup { crew, .. }] if crew.generation == 5),
        "{actions:?}"
    );
    assert_eq!(state.running().next().unwrap().generation, 7);
    // Slot 0 is free again, and a recruit takes it.
    let Action::Recruit { slots, anew, .. } = state.recruit(recruits("a", 7, &[51, 80])) else {
        panic!("no recruit");
    };
    assert_eq!((slots, anew), (BTreeMap::from([(80, 0)]), false));
    let again = state.recruit(recruits("a", 7, &[80]));
    assert!(matches!(again, Action::Ignore { .. }), "{again:?}");
    // Its slot and the crew's end count only for the crew that they are of.
    state.vacated(&GangKey::new("a", 7), 80);
    state.ended(&GangKey::new("a", 7));
    assert_eq!(
        state.free(&[1, 2]).unwrap_err(),
        "2 ranks asked for, 1 of 3 slots are free"
    );
    state.vacated(&GangKey::new("a", 5), 80);
    assert!(state.free(&[1, 2]).is_ok());
}

#[test]
fn survivors_that_are_not_here_are_refused_and_recruits_make_a_crew() {
    let mut state = State::new(1);
    let actions = state.start(regroup("a", 7, &[51]));
    let [Action::Refuse { seats, .. }] = &actions[..] else {
        panic!("{actions:?}");
    };
    assert_eq!(*seats, BTreeMap::from([(51, 2)]));
    let first = state.recruit(recruits("a", 7, &[90]));
    assert!(
        matches!(first, Action::Recruit { anew: true, .. }),
        "{first:?}"
    );
    let full = state.recruit(recruits("a", 7, &[91]));
    assert!(matches!(full, Action::Refuse { .. }), "{full:?}");
    let old = state.recruit(recruits("a", 6, &[92]));
    assert!(matches!(old, Action::Ignore { .. }), "{old:?}");
    let joined = state.start(regroup("a", 8, &[90]));
    assert!(
        matches!(&joined[..], [Action::Regroup { .. }]),
        "{joined:?}"
    );
}

proptest! {
    #[test]
    fn slots_are_never_shared_and_generations_only_grow(
        messages in prop::collection::vec((0..5_u8, 0..3_u8, 1..20_u64, 0..4_u32), 0..80)
    ) {
        let mut state = State::new(4);
        let mut started: BTreeMap<String, u64> = BTreeMap::new();
        for (kind, job, generation, count) in messages {
            let job = format!("job{job}");
            match kind {
                0 => {
                    for action in state.start(order(&job, generation, count)) {
                        if let Action::Start { crew, .. } = action {
                            let before = started.insert(crew.job_id, crew.generation);
                            prop_assert!(before < Some(generation));
                        }
                    }
                }
                1 => { state.revoke(&revoke(&job, generation)); }
                2 => {
                    let seats: Vec<u64> = (0..u64::from(count)).map(|n| 10 * generation + n).collect();
                    for action in state.start(regroup(&job, generation, &seats)) {
                        if let Action::Regroup { crew, .. } = action {
                            prop_assert!(crew.generation < generation);
                        }
                    }
                }
                3 => { state.recruit(recruits(&job, generation, &[1000 + u64::from(count)])); }
                _ => state.ended(&GangKey::new(&job, generation)),
            }
            let crews = state.crews.values();
            let used: Vec<u32> = crews.flat_map(|crew| crew.slots.values().copied()).collect();
            let distinct: BTreeSet<u32> = used.iter().copied().collect();
            prop_assert_eq!(used.len(), distinct.len());
            prop_assert!(distinct.iter().all(|&slot| slot < 4));
        }
    }
}
