use proptest::prelude::*;

use super::*;
use crate::job::{Member, Seat};

const LIMITS: Limits = Limits {
    lease_ttl: Duration::from_secs(5),
    start: Duration::from_secs(60),
    infrastructure_restarts: 2,
    recoveries: 3,
    hold: Duration::from_secs(30),
    leave: Duration::from_secs(20),
};

fn member(worker: &str, first_rank: u32, seats: &[u64]) -> Member {
    Member {
        worker_id: worker.to_owned(),
        incarnation: format!("{worker}-1"),
        first_rank,
        seats: seats.iter().map(|&id| Seat { id, holds: false }).collect(),
    }
}

fn gang(state: State) -> GangView {
    let mut job = GangView::empty(JobId::numbered(1), state);
    job.gang.members = vec![member("a", 0, &[1]), member("b", 1, &[2])];
    job
}

/// A gang whose ranks all run.
fn at_work(min_workers: u32) -> GangView {
    let mut job = gang(State::Running);
    job.min_workers = min_workers;
    for rank in 0..2 {
        job.ranks.insert(rank, RankPhase::Running);
    }
    job
}

fn regrouped(decision: Option<Decision>) -> Regroup {
    match decision {
        Some(Decision::Regroup(regroup)) => regroup,
        other => panic!("expected a new generation, got {other:?}"),
    }
}

fn seats(gang: &Gang) -> Vec<(u32, &str, u64)> {
    gang.ranks()
        .map(|(rank, member, seat)| (rank, member.worker_id.as_str(), seat.id))
        .collect()
}

fn recruit(seat: u64, worker: &str, ready: bool) -> Recruit {
    Recruit {
        seat,
        worker_id: worker.to_owned(),
        incarnation: format!("{worker}-1"),
        ready,
    }
}

fn workers(heard: u64) -> BTreeMap<String, WorkerView> {
    ["a", "b", "c"]
        .into_iter()
        .map(|id| {
            let view = WorkerView {
                incarnation: Some(format!("{id}-1")),
                heard: Millis(heard),
                detached: None,
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
            "rank 0 of worker a lost (killed by signal 9); restart 2 of 2".to_owned()
        ))
    );
    job.infrastructure_restarts = 2;
    assert_eq!(
        decide(Millis(1), &LIMITS, &job, &workers(0)),
        Some(Decision::Fail(
            "rank 0 of worker a lost (killed by signal 9); all 2 restarts are spent".to_owned()
        ))
    );
}

#[test]
fn a_gang_that_does_not_meet_is_tried_again() {
    let job = gang(State::Placing);
    assert_eq!(
        decide(Millis(60_000), &LIMITS, &job, &workers(60_000)),
        None
    );
    assert_eq!(
        decide(Millis(60_001), &LIMITS, &job, &workers(60_001)),
        Some(Decision::Restart(
            "0 of 2 ranks have met within 60 s; restart 1 of 2".to_owned()
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
fn survivors_go_on_without_what_was_lost() {
    let mut job = at_work(1);
    job.ranks.insert(0, failed(false, "ended with signal 9"));
    let regroup = regrouped(decide(Millis(1), &LIMITS, &job, &workers(0)));
    assert_eq!(seats(&regroup.gang), [(0, "b", 2)]);
    assert!(regroup.gang.members[0].seats[0].holds);
    assert_eq!(regroup.gang.formation, Formation::Survivors);
    assert_eq!(
        regroup.reason,
        "rank 0 of worker a lost (ended with signal 9); 1 of 2 ranks go on"
    );
    job.recent_recoveries = 3;
    let spent = decide(Millis(1), &LIMITS, &job, &workers(0));
    assert!(
        matches!(&spent, Some(Decision::Restart(reason)) if reason.contains("3 recoveries in 10 min are too many")),
        "{spent:?}"
    );
}

#[test]
fn too_few_survivors_wait_for_recruits_and_not_for_ever() {
    let mut job = at_work(2);
    job.ranks.insert(1, failed(false, "ended with signal 9"));
    let held = regrouped(decide(Millis(1), &LIMITS, &job, &workers(0)));
    assert_eq!(held.gang.formation, Formation::Held);
    assert!(
        held.reason
            .ends_with("1 of 2 ranks wait for others: the job needs 2 workers")
    );

    let mut waits = GangView {
        gang: held.gang,
        ranks: BTreeMap::new(),
        state: State::Recovering,
        recruits: vec![recruit(3, "c", false)],
        ..job
    };
    assert_eq!(
        decide(Millis(30_000), &LIMITS, &waits, &workers(30_000)),
        None
    );
    let given_up = decide(Millis(30_001), &LIMITS, &waits, &workers(30_001));
    assert_eq!(
        given_up,
        Some(Decision::Restart(
            "1 of 2 workers were there for 30 s; restart 1 of 2".to_owned()
        ))
    );
    waits.recruits[0].ready = true;
    let joined = regrouped(decide(Millis(9), &LIMITS, &waits, &workers(9)));
    assert_eq!(seats(&joined.gang), [(0, "a", 1), (1, "c", 3)]);
    assert_eq!((joined.recruits, joined.cause.as_str()), (1, ""));
    assert_eq!(joined.gang.formation, Formation::Survivors);
    // A recruit whose worker is silent does not count.
    let mut silent = workers(9);
    silent.remove("c");
    assert_eq!(decide(Millis(9), &LIMITS, &waits, &silent), None);
}

#[test]
fn recruits_join_a_gang_at_work_when_all_are_ready() {
    let mut job = at_work(1);
    job.recruits = vec![recruit(3, "a", true), recruit(4, "c", false)];
    assert_eq!(decide(Millis(1), &LIMITS, &job, &workers(0)), None);
    job.recruits[1].ready = true;
    let grown = regrouped(decide(Millis(1), &LIMITS, &job, &workers(0)));
    assert_eq!(
        seats(&grown.gang),
        [(0, "a", 1), (1, "a", 3), (2, "b", 2), (3, "c", 4)]
    );
    assert_eq!(grown.gang.formation, Formation::Planned);
    assert_eq!(grown.reason, "2 of 4 ranks join");
}

#[test]
fn nobody_joins_a_gang_whose_work_ends() {
    let mut job = at_work(1);
    job.recruits = vec![recruit(3, "c", true)];
    job.ranks.insert(1, RankPhase::Done);
    assert_eq!(decide(Millis(1), &LIMITS, &job, &workers(0)), None);
}

#[test]
fn ranks_that_only_lost_each_other_meet_again() {
    let mut job = at_work(2);
    let waiting = RankPhase::Waiting {
        reason: "connection reset".to_owned(),
        holds: true,
    };
    job.ranks.insert(1, waiting);
    job.waiting = Some(Millis(1000));
    assert_eq!(decide(Millis(7000), &LIMITS, &job, &workers(7000)), None);
    let again = regrouped(decide(Millis(7001), &LIMITS, &job, &workers(7001)));
    assert_eq!(seats(&again.gang), [(0, "a", 1), (1, "b", 2)]);
    assert!(again.cause.contains("rank 1 of worker b lost its peers"));
}

#[test]
fn a_worker_without_a_session_is_lost_once_its_peers_say_so() {
    let mut job = at_work(1);
    let mut known = workers(2000);
    known.get_mut("b").unwrap().detached = Some(Millis(500));
    assert_eq!(decide(Millis(2000), &LIMITS, &job, &known), None);
    job.ranks.insert(
        0,
        RankPhase::Waiting {
            reason: "lost rank 1".to_owned(),
            holds: true,
        },
    );
    job.waiting = Some(Millis(1990));
    let regroup = regrouped(decide(Millis(2000), &LIMITS, &job, &known));
    assert_eq!(seats(&regroup.gang), [(0, "a", 1)]);
    assert_eq!(
        regroup.cause,
        "worker b has no session, and its ranks' peers lost them"
    );
}

#[test]
fn a_stalled_rank_is_left_behind() {
    let mut job = at_work(1);
    job.stalled.insert(1, "silent for 4.0 s".to_owned());
    let regroup = regrouped(decide(Millis(1), &LIMITS, &job, &workers(0)));
    assert_eq!(seats(&regroup.gang), [(0, "a", 1)]);
    assert_eq!(
        regroup.cause,
        "rank 1 of worker b stalled (silent for 4.0 s)"
    );
}

#[test]
fn while_publishing_only_rank_0_matters() {
    let mut job = at_work(1);
    job.state = State::Publishing;
    job.ranks.insert(1, failed(false, "ended with signal 9"));
    assert_eq!(decide(Millis(1), &LIMITS, &job, &workers(0)), None);
    job.ranks.insert(0, failed(false, "ended with signal 9"));
    let restart = decide(Millis(1), &LIMITS, &job, &workers(0));
    assert!(matches!(restart, Some(Decision::Restart(_))), "{restart:?}");
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
fn a_gang_that_is_to_leave_goes_once_it_has_halted_or_is_out_of_time() {
    let mut job = at_work(2);
    job.leaves = Some(Duration::from_secs(20));
    assert_eq!(decide(Millis(1), &LIMITS, &job, &workers(0)), None);
    let left = |job: &GangView| match decide(Millis(1), &LIMITS, job, &workers(0)) {
        Some(Decision::Leave(how)) => how,
        other => panic!("{other:?}"),
    };
    let mut halted = job.clone();
    halted.ranks.insert(0, RankPhase::Halted);
    assert_eq!(left(&halted), "");
    // Another rank's word is not that of rank 0.
    let mut other = job.clone();
    other.ranks.insert(1, RankPhase::Halted);
    assert_eq!(decide(Millis(1), &LIMITS, &other, &workers(0)), None);
    let late = GangView {
        leaves: Some(Duration::from_secs(21)),
        ..job.clone()
    };
    assert_eq!(
        left(&late),
        "its checkpoint did not come within 20 s, the last one counts"
    );
    let placing = GangView {
        state: State::Placing,
        ..job.clone()
    };
    assert_eq!(left(&placing), "");
    // What is lost on the way is left behind as ever; too few do not wait for others.
    job.ranks.insert(1, failed(false, "ended with signal 9"));
    let held = regrouped(decide(Millis(1), &LIMITS, &job, &workers(0)));
    job.gang = held.gang;
    job.ranks.clear();
    assert_eq!(left(&job), "its survivors were too few for a checkpoint");
    // The model is on its way.
    let publishing = GangView {
        state: State::Publishing,
        ..late
    };
    assert_eq!(decide(Millis(1), &LIMITS, &publishing, &workers(0)), None);
}

#[test]
fn who_is_to_be_let_go_goes_when_enough_are_left_or_others_have_come() {
    let mut job = at_work(1);
    job.let_go
        .insert("a".to_owned(), "worker a is slow".to_owned());
    let next = regrouped(decide(Millis(1), &LIMITS, &job, &workers(0)));
    assert_eq!(seats(&next.gang), [(0, "b", 2)]);
    assert_eq!(next.gang.formation, Formation::Planned);
    assert_eq!(
        next.reason,
        "worker a is slow; 1 ranks go on, 0 of them new"
    );
    assert_eq!(next.cause, "");

    job.min_workers = 2;
    assert_eq!(decide(Millis(1), &LIMITS, &job, &workers(0)), None);
    job.recruits = vec![recruit(3, "c", false)];
    assert_eq!(decide(Millis(1), &LIMITS, &job, &workers(0)), None);
    job.recruits[0].ready = true;
    let next = regrouped(decide(Millis(1), &LIMITS, &job, &workers(0)));
    assert_eq!(seats(&next.gang), [(0, "b", 2), (1, "c", 3)]);
    // A loss comes first, and who ends is left to end.
    job.ranks.insert(1, RankPhase::Done);
    assert_eq!(decide(Millis(1), &LIMITS, &job, &workers(0)), None);
}

#[test]
fn a_gang_gives_up_workers_down_to_its_fewest() {
    let job = at_work(1);
    let b = ["b".to_owned()];
    let next = shrink(&job, &b, "job j2 needs it").unwrap();
    assert_eq!(seats(&next.gang), [(0, "a", 1)]);
    assert_eq!(next.gang.formation, Formation::Planned);
    assert_eq!(next.reason, "job j2 needs it; 1 of 2 ranks go on");
    assert_eq!(shrink(&at_work(2), &b, ""), None);
    let recovering = GangView {
        state: State::Recovering,
        ..job.clone()
    };
    assert_eq!(shrink(&recovering, &b, ""), None);
    let leaving = GangView {
        leaves: Some(Duration::ZERO),
        ..job
    };
    assert_eq!(shrink(&leaving, &b, ""), None);
}

#[test]
fn pauses_grow_to_a_bound() {
    let pauses: Vec<u128> = (0..10).map(|n| pause(n).as_millis()).collect();
    assert_eq!(
        pauses,
        [100, 100, 200, 400, 800, 1600, 3200, 5000, 5000, 5000]
    );
}

#[test]
fn pauses_of_recruits_grow_further() {
    let pauses: Vec<u64> = [1, 2, 7, 13, 50]
        .map(|n| recruit_pause(n).as_secs())
        .to_vec();
    assert_eq!(pauses, [0, 0, 6, 409, 409]);
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

    /// Whatever ranks are lost: the next generation has the survivors and nobody else, in their order,
    /// with ranks without a gap; someone in it holds the state; and it does not train below the minimum.
    #[test]
    fn a_new_generation_is_sound(
        phases in proptest::collection::vec(0u8..5, 1..7),
        per_worker in 1usize..3,
        min_workers in 1u32..4,
        ready in proptest::collection::vec(any::<bool>(), 0..3),
        spent in 0u32..5,
    ) {
        let ids: Vec<u64> = (1..=phases.len() as u64).collect();
        let mut job = gang(State::Running);
        job.min_workers = min_workers;
        job.recent_recoveries = spent;
        job.gang.members = ids
            .chunks(per_worker)
            .enumerate()
            .map(|(index, seats)| member(&format!("w{index}"), (index * per_worker) as u32, seats))
            .collect();
        job.recruits = (100..).zip(&ready).map(|(seat, ready)| recruit(seat, "c", *ready)).collect();
        for (rank, phase) in (0u32..).zip(&phases) {
            let waiting = |holds| RankPhase::Waiting { reason: "lost".to_owned(), holds };
            match phase {
                0 => job.ranks.insert(rank, failed(false, "signal 9")),
                1 => job.ranks.insert(rank, RankPhase::Running),
                2 => job.ranks.insert(rank, waiting(true)),
                3 => job.ranks.insert(rank, waiting(false)),
                _ => None,
            };
        }
        let mut known = workers(0);
        for member in &job.gang.members {
            let view = WorkerView {
                incarnation: Some(member.incarnation.clone()),
                heard: Millis(0),
                detached: None,
            };
            known.insert(member.worker_id.clone(), view);
        }
        let decision = decide(Millis(1), &LIMITS, &job, &known);
        prop_assert_eq!(&decision, &decide(Millis(1), &LIMITS, &job, &known));
        let any_lost = phases.contains(&0);
        let holders = phases.iter().filter(|phase| matches!(phase, 1 | 2)).count();
        match decision {
            Some(Decision::Regroup(next)) => {
                let found = seats(&next.gang);
                let ranks: Vec<u32> = found.iter().map(|(rank, ..)| *rank).collect();
                prop_assert_eq!(ranks, (0..found.len() as u32).collect::<Vec<_>>());
                let old: Vec<u64> = found.iter().map(|(.., seat)| *seat).filter(|s| *s < 100).collect();
                let survivors: Vec<u64> = ids
                    .iter()
                    .zip(&phases)
                    .filter(|(_, phase)| **phase != 0)
                    .map(|(id, _)| *id)
                    .collect();
                prop_assert_eq!(old, survivors);
                prop_assert!(next.gang.ranks().any(|(.., seat)| seat.holds));
                prop_assert!(next.gang.ranks().next().is_some_and(|(.., seat)| seat.id < 100));
                let workers = next.gang.members.len() as u32;
                let trains = next.gang.formation != Formation::Held;
                prop_assert_eq!(trains, !any_lost || workers >= min_workers);
                prop_assert!(!any_lost || spent < 3);
            }
            Some(Decision::Restart(_)) => prop_assert!(any_lost && (holders == 0 || spent >= 3)),
            None => prop_assert!(!any_lost),
            other => prop_assert!(false, "{:?}", other),
        }
    }
}
