use proptest::prelude::*;

use super::*;

const LIMITS: Limits = Limits {
    lease_ttl: Duration::from_secs(5),
    start: Duration::from_secs(60),
    infrastructure_restarts: 2,
};

fn member(worker: &str, first_rank: u32) -> Member {
    Member {
        worker_id: worker.to_owned(),
        incarnation: format!("{worker}-1"),
        first_rank,
        rank_count: 1,
    }
}

fn gang(state: State) -> GangView {
    GangView {
        job_id: JobId::numbered(1),
        state,
        gang: Gang {
            members: vec![member("a", 0), member("b", 1)],
        },
        ranks: BTreeMap::new(),
        placed: Millis(0),
        absent: BTreeMap::new(),
        infrastructure_restarts: 0,
    }
}

fn workers(heard: u64) -> BTreeMap<String, WorkerView> {
    ["a", "b"]
        .into_iter()
        .map(|id| {
            let view = WorkerView {
                incarnation: Some(format!("{id}-1")),
                heard: Millis(heard),
            };
            (id.to_owned(), view)
        })
        .collect()
}

fn failed(user_fault: bool, reason: &str) -> RankPhase {
    RankPhase::Failed {
        user_fault,
        reason: reason.to_owned(),
    }
}

#[test]
fn runs_when_every_rank_has_met() {
    let mut job = gang(State::Placing);
    job.ranks.insert(0, RankPhase::Running);
    assert_eq!(decide(Millis(1), &LIMITS, &job, &workers(0)), None);
    job.ranks.insert(1, RankPhase::Running);
    let decision = decide(Millis(1), &LIMITS, &job, &workers(0));
    assert_eq!(
        decision,
        Some(Decision::Run("all 2 ranks have met".to_owned()))
    );
    job.state = State::Running;
    assert_eq!(decide(Millis(1), &LIMITS, &job, &workers(0)), None);
}

#[test]
fn a_silent_worker_is_lost_after_its_lease_and_not_before() {
    let job = gang(State::Running);
    assert_eq!(decide(Millis(5000), &LIMITS, &job, &workers(0)), None);
    let mut one_silent = workers(5001);
    one_silent.get_mut("b").unwrap().heard = Millis(0);
    assert_eq!(
        decide(Millis(5001), &LIMITS, &job, &one_silent),
        Some(Decision::Restart(
            "worker b was not heard for 5.0 s (lease 5.0 s); restart 1 of 2".to_owned()
        ))
    );
}

#[test]
fn another_incarnation_is_a_loss_but_one_not_yet_registered_is_not() {
    let job = gang(State::Running);
    let mut known = workers(0);
    known.get_mut("a").unwrap().incarnation = None;
    assert_eq!(decide(Millis(1), &LIMITS, &job, &known), None);
    known.get_mut("a").unwrap().incarnation = Some("a-2".to_owned());
    assert_eq!(
        decide(Millis(1), &LIMITS, &job, &known),
        Some(Decision::Restart(
            "worker a was restarted, which ended its ranks; restart 1 of 2".to_owned()
        ))
    );
}

#[test]
fn a_fault_of_the_user_wins_over_its_echoes_and_is_final() {
    let mut job = gang(State::Placing);
    job.ranks.insert(0, failed(false, "peer 1 left"));
    job.ranks
        .insert(1, failed(true, "data.train: no such folder"));
    assert_eq!(
        decide(Millis(1), &LIMITS, &job, &workers(0)),
        Some(Decision::Fail(
            "rank 1: data.train: no such folder".to_owned()
        ))
    );
}

#[test]
fn the_budget_ends_the_restarts() {
    let mut job = gang(State::Running);
    job.ranks.insert(0, failed(false, "killed by signal 9"));
    job.infrastructure_restarts = 1;
    assert_eq!(
        decide(Millis(1), &LIMITS, &job, &workers(0)),
        Some(Decision::Restart(
            "rank 0: killed by signal 9; restart 2 of 2".to_owned()
        ))
    );
    job.infrastructure_restarts = 2;
    assert_eq!(
        decide(Millis(1), &LIMITS, &job, &workers(0)),
        Some(Decision::Fail(
            "rank 0: killed by signal 9; all 2 restarts are spent".to_owned()
        ))
    );
}

#[test]
fn a_gang_that_does_not_meet_is_tried_again() {
    let mut job = gang(State::Placing);
    job.ranks.insert(0, RankPhase::Running);
    assert_eq!(
        decide(Millis(60_000), &LIMITS, &job, &workers(60_000)),
        None
    );
    assert_eq!(
        decide(Millis(60_001), &LIMITS, &job, &workers(60_001)),
        Some(Decision::Restart(
            "1 of 2 ranks have met within 60 s; restart 1 of 2".to_owned()
        ))
    );
}

#[test]
fn ranks_that_vanish_without_a_report_are_a_loss_after_a_lease() {
    let mut job = gang(State::Running);
    job.absent.insert("a".to_owned(), Millis(1000));
    assert_eq!(decide(Millis(6000), &LIMITS, &job, &workers(6000)), None);
    assert_eq!(
        decide(Millis(6001), &LIMITS, &job, &workers(6001)),
        Some(Decision::Restart(
            "worker a registered without the ranks it was running; restart 1 of 2".to_owned()
        ))
    );
    job.ranks.insert(0, RankPhase::Done);
    assert_eq!(decide(Millis(6001), &LIMITS, &job, &workers(6001)), None);
}

#[test]
fn ranks_that_are_done_without_a_model_are_a_loss() {
    let mut job = gang(State::Publishing);
    job.ranks.insert(0, RankPhase::Done);
    assert_eq!(decide(Millis(1), &LIMITS, &job, &workers(0)), None);
    job.ranks.insert(1, RankPhase::Done);
    assert!(matches!(
        decide(Millis(1), &LIMITS, &job, &workers(0)),
        Some(Decision::Restart(reason)) if reason.starts_with("all ranks ended, but no model")
    ));
}

#[test]
fn cancelling_ends_whatever_else_is_wrong() {
    let mut job = gang(State::Cancelling);
    job.ranks.insert(0, failed(true, "bad"));
    assert_eq!(
        decide(Millis(9_999), &LIMITS, &job, &workers(0)),
        Some(Decision::Stop)
    );
}

#[test]
fn pauses_grow_to_a_bound() {
    let pauses: Vec<u128> = (0..10).map(|n| pause(n).as_millis()).collect();
    assert_eq!(
        pauses,
        [100, 100, 200, 400, 800, 1600, 3200, 5000, 5000, 5000]
    );
}

proptest! {
    #[test]
    fn a_healthy_gang_is_never_taken_down(
        now in 0u64..100_000, silence in 0u64..=5000, running in any::<bool>(), spent in 0u32..5
    ) {
        let mut job = gang(if running { State::Running } else { State::Publishing });
        job.infrastructure_restarts = spent;
        job.ranks.insert(0, RankPhase::Running);
        job.ranks.insert(1, RankPhase::Running);
        let workers = workers(now.saturating_sub(silence));
        prop_assert_eq!(decide(Millis(now), &LIMITS, &job, &workers), None);
    }

    #[test]
    fn every_decision_on_a_loss_fits_the_table(silence in 5001u64..100_000, spent in 0u32..5) {
        for state in State::ALL.into_iter().filter(|s| s.has_gang()) {
            let mut job = gang(state);
            job.infrastructure_restarts = spent;
            let trigger = match decide(Millis(silence), &LIMITS, &job, &workers(0)) {
                Some(Decision::Restart(_)) => crate::job::Trigger::Lose,
                Some(Decision::Fail(_)) => crate::job::Trigger::GiveUp,
                other => panic!("a lost gang of {state} got {other:?}"),
            };
            prop_assert!(state.after(trigger).is_ok());
            prop_assert_eq!(trigger == crate::job::Trigger::GiveUp, spent >= 2);
        }
    }
}
