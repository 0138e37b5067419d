//! What is lost of a gang is left behind: the survivors go on from their memory, no step is run again,
//! and the result is that of a run that nothing happened to.

use std::time::{Duration, Instant};

use espalier_tests::{Cluster, Feed, TinyJob, assert_close, assert_same_losses, weights};

/// Steps of a job: long enough for what is killed to be missed, and to come back.
const TOTAL: u64 = 120;

/// A job that runs on two or three workers.
fn job(cluster: &Cluster, name: &str) -> TinyJob {
    TinyJob {
        workers: 3,
        min_workers: Some(1),
        search: 50,
        tune: TOTAL - 50,
        every: 40,
        name: name.to_owned(),
        ..TinyJob::new(&cluster.data())
    }
}

/// A disturbed run against the undisturbed one.
#[track_caller]
fn assert_undisturbed(
    cluster: &Cluster,
    job_id: &str,
    name: &str,
    straight: &(Feed, Vec<u8>),
) -> Feed {
    let ended = cluster.succeeded(job_id);
    let feed = Feed::read(&cluster.endpoint(), job_id);
    let story = feed.story();
    println!("{name}: {}", ended["last_recovery"]);
    assert!(
        ended["restarts"]
            .as_object()
            .is_some_and(serde_json::Map::is_empty),
        "{name}: {story:#?}"
    );
    assert!(
        ended["recoveries"].as_u64() >= Some(1),
        "{name}: {story:#?}"
    );
    feed.assert_ledger(TOTAL);
    feed.assert_never_back();
    assert_same_losses(&straight.0, &feed);
    assert_close(
        &straight.1,
        &weights(&cluster.pull(&format!("{name}:latest"), name)),
    );
    feed
}

#[test]
fn survivors_go_on_from_their_memory() {
    let mut cluster = Cluster::start(3);
    let (_, feed) = cluster.run(&job(&cluster, "straight"));
    feed.assert_ledger(TOTAL);
    let straight = (feed, weights(&cluster.pull("straight:latest", "straight")));
    let submit = |cluster: &Cluster, name: &str, step: u64| {
        let job_id = cluster.submit(&job(cluster, name).toml());
        Feed::to_step(&cluster.endpoint(), &job_id, step);
        job_id
    };

    // A rank in the middle of a step: the next step is done within two seconds.
    let job_id = submit(&cluster, "rank", 20);
    let killed = Instant::now();
    Cluster::kill_process(cluster.ranks_of(1)[0]);
    Feed::to_recovery(&cluster.endpoint(), &job_id, 1);
    let seen = killed.elapsed();
    let feed = assert_undisturbed(&cluster, &job_id, "rank", &straight);
    let (recovery, _) = &feed.recoveries()[0];
    println!("rank killed, next step known to be done {seen:?} later: {recovery:?}");
    assert!(recovery.total_ms < 2000, "{recovery:?}");
    assert_eq!((recovery.survivors, recovery.recruits), (2, 0));

    // Rank 0, which hosts the rendezvous, measures and hands over checkpoints.
    let job_id = submit(&cluster, "first", 37);
    Cluster::kill_process(cluster.ranks_of(0)[0]);
    assert_undisturbed(&cluster, &job_id, "first", &straight);

    // Two at once, across the end of the search.
    let job_id = submit(&cluster, "two", 49);
    for index in [0, 2] {
        Cluster::kill_process(cluster.ranks_of(index)[0]);
    }
    assert_undisturbed(&cluster, &job_id, "two", &straight);

    // One more while the survivors regroup.
    let job_id = submit(&cluster, "again", 30);
    let victims = [cluster.ranks_of(2)[0], cluster.ranks_of(0)[0]];
    Cluster::kill_process(victims[0]);
    std::thread::sleep(Duration::from_millis(60));
    Cluster::kill_process(victims[1]);
    assert_undisturbed(&cluster, &job_id, "again", &straight);

    // An agent with its rank.
    let job_id = submit(&cluster, "agent", 20);
    cluster.kill_worker(1);
    Feed::to_recovery(&cluster.endpoint(), &job_id, 1);
    cluster.start_worker(1);
    assert_undisturbed(&cluster, &job_id, "agent", &straight);

    // A rank that is stopped: it is found by its silence, killed and replaced.
    let job_id = submit(&cluster, "stopped", 20);
    let victim = cluster.ranks_of(2)[0];
    let stopped = Instant::now();
    Cluster::stop_process(victim);
    Feed::to_recovery(&cluster.endpoint(), &job_id, 1);
    println!(
        "rank stopped, next step known to be done {:?} later",
        stopped.elapsed()
    );
    assert!(stopped.elapsed() < Duration::from_secs(20));
    cluster.wait("the stopped rank to be killed", |cluster| {
        !cluster.ranks().contains(&victim)
    });
    let feed = assert_undisturbed(&cluster, &job_id, "stopped", &straight);
    let (recovery, _) = &feed.recoveries()[0];
    assert!(
        recovery.cause.contains("stalled (silent for"),
        "{recovery:?}"
    );
}
