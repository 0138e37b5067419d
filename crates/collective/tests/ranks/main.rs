//! Groups of real processes over Gloo, and what the survivors of a fault see.
//!
//! The test binary runs itself again as each rank: see `harness`.

#![allow(
    clippy::unwrap_used,
    reason = "all of this is test code, which the lint only sees inside test functions"
)]

mod harness;
mod scenarios;

use std::time::{Duration, Instant};

use harness::{Rank, start};

/// Far above what anything here takes, far below the groups' own limit of operations.
const GENEROUS: Duration = Duration::from_secs(30);

/// What a process started by `harness::start` does; nothing in a run by hand.
#[test]
fn rank_process() {
    scenarios::play();
}

fn all_say(ranks: &mut [Rank], wanted: &str) {
    for (rank, process) in ranks.iter_mut().enumerate() {
        assert_eq!(process.line(), wanted, "rank {rank}");
    }
}

#[test]
fn two_ranks_exchange_every_kind() {
    all_say(&mut start("exchange", 2), "exchanged");
}

#[test]
fn four_ranks_exchange_every_kind() {
    all_say(&mut start("exchange", 4), "exchanged");
}

#[test]
fn repeated_runs_and_all_ranks_have_the_same_bits() {
    let mut digests = Vec::new();
    for _ in 0..2 {
        digests.extend(start("digest", 3).iter_mut().map(Rank::line));
    }
    assert!(digests[0].starts_with("digest "), "{}", digests[0]);
    assert!(
        digests.iter().all(|digest| *digest == digests[0]),
        "{digests:?}"
    );
}

#[test]
fn a_killed_peer_is_lost_long_before_the_limit() {
    let mut ranks = start("rounds", 2);
    all_say(&mut ranks, "turning");
    ranks[1].kill();
    let killed = Instant::now();
    let seen = ranks[0].line();
    assert!(
        seen.starts_with("lost all-reduce on rank 0: lost rank 1"),
        "{seen}"
    );
    assert!(killed.elapsed() < GENEROUS, "after {:?}", killed.elapsed());
}

#[test]
fn a_peer_that_never_comes_is_named() {
    let mut ranks = harness::start_some("connect 2000", 4, &[0, 2]);
    for (process, rank) in ranks.iter_mut().zip([0, 2]) {
        assert_eq!(
            process.line(),
            format!("timeout connect on rank {rank}: not done after 2s, waiting for ranks 1, 3")
        );
    }
}

#[test]
fn a_stopped_peer_is_a_timeout_at_the_waits_deadline() {
    let mut ranks = start("rounds 1500", 2);
    all_say(&mut ranks, "turning");
    ranks[1].stop();
    let stopped = Instant::now();
    assert_eq!(
        ranks[0].line(),
        "timeout all-reduce on rank 0: not done after 1.5s"
    );
    assert!(
        stopped.elapsed() < GENEROUS,
        "after {:?}",
        stopped.elapsed()
    );
}

#[test]
fn an_abort_wakes_the_wait_and_its_first_reason_stays() {
    let mut ranks = start("abort", 2);
    assert_eq!(ranks[0].line(), "waiting");
    ranks[0].say("abort");
    let revoked = "the group was aborted: revoked";
    assert_eq!(
        ranks[0].line(),
        format!("aborted all-reduce on rank 0: {revoked}")
    );
    assert_eq!(
        ranks[0].line(),
        format!("aborted barrier on rank 0: {revoked}")
    );
}

/// Kills one of three and forms a group of the other two, in the same processes.
fn rebuild_without(lost: usize) {
    let mut ranks = start("rebuild", 3);
    all_say(&mut ranks, "turning");
    ranks[lost].kill();
    let mut left: Vec<Rank> = ranks
        .into_iter()
        .enumerate()
        .filter_map(|(rank, process)| (rank != lost).then_some(process))
        .collect();
    for process in &mut left {
        let seen = process.line();
        assert!(seen.starts_with("lost all-reduce"), "{seen}");
    }
    harness::regroup(&mut left);
    all_say(&mut left, "sum 3");
}

#[test]
fn two_of_three_go_on_without_the_third() {
    rebuild_without(2);
}

#[test]
fn two_of_three_go_on_without_the_one_that_hosted_the_rendezvous() {
    rebuild_without(0);
}
