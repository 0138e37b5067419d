//! A cluster that several share: what one job gives up for another, what is held back and what is moved
//! costs no step, and the result is that of a run that nothing happened to.

use espalier_tests::{Cluster, Feed, TinyJob, assert_close, assert_same_losses, weights};
use serde_json::Value;

/// Steps of a job.
const TOTAL: u64 = 60;

/// A job that runs on one worker or two, with a checkpoint at the end of its search alone.
fn job(cluster: &Cluster, name: &str) -> TinyJob {
    TinyJob {
        workers: 2,
        min_workers: Some(1),
        search: 20,
        tune: TOTAL - 20,
        every: 1000,
        name: name.to_owned(),
        ..TinyJob::new(&cluster.data())
    }
}

/// A run that was interfered with, against the one that was not.
#[track_caller]
fn assert_as_if_alone(cluster: &Cluster, job_id: &str, name: &str, straight: &(Feed, Vec<u8>)) {
    let ended = cluster.succeeded(job_id);
    let feed = Feed::read(&cluster.endpoint(), job_id);
    assert_eq!(ended["recoveries"], 0, "{:#?}", feed.story());
    let restarts = ended["restarts"].as_object().unwrap();
    assert!(
        !restarts.contains_key("infrastructure"),
        "{:#?}",
        feed.story()
    );
    feed.assert_ledger(TOTAL);
    feed.assert_never_back();
    assert_same_losses(&straight.0, &feed);
    let pulled = cluster.pull(&format!("{name}:latest"), name);
    assert_close(&straight.1, &weights(&pulled));
}

fn standing(cluster: &Cluster, worker: &str) -> String {
    let listed = cluster.cli(&["worker", "list", "-o", "json"]);
    let listed: Value = serde_json::from_str(&listed.stdout).unwrap();
    let workers = listed.as_array().unwrap().iter();
    let found = workers.filter(|w| w["worker_id"] == worker);
    found
        .map(|w| w["standing"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn sharing_costs_no_step() {
    let mut cluster = Cluster::start(2);
    let (_, feed) = cluster.run(&job(&cluster, "straight"));
    let straight = (feed, weights(&cluster.pull("straight:latest", "straight")));

    // A job of a higher priority takes one of two workers.
    let low = cluster.submit(&job(&cluster, "low").toml());
    Feed::to_step(&cluster.endpoint(), &low, 10);
    let high = TinyJob {
        search: 2,
        tune: 2,
        name: "high".to_owned(),
        ..TinyJob::new(&cluster.data())
    };
    let high = high
        .toml()
        .replace("[resources]", "[resources]\npriority = 5");
    let high = cluster.submit(&high);
    cluster.succeeded(&high);
    assert_as_if_alone(&cluster, &low, "low", &straight);
    let feed = Feed::read(&cluster.endpoint(), &low);
    let told = |reason: &&str| reason.contains("has a higher priority (5 over 0)");
    assert!(feed.story().iter().any(told), "{:#?}", feed.story());

    // A pause keeps every step that was done, over a kill of the coordinator.
    let held = cluster.submit(&job(&cluster, "held").toml());
    Feed::to_step(&cluster.endpoint(), &held, 30);
    let asked = cluster.cli(&["job", "pause", &held, "--reason", "lunch"]);
    assert_eq!(asked.code, 0, "{}", asked.stderr);
    cluster.wait("the job to pause", |cluster| {
        cluster.job(&held)["state"] == "PAUSED"
    });
    let paused = cluster.job(&held);
    assert_eq!(paused["reason"], "paused by a user: lunch");
    assert!(paused["committed_step"].as_u64() >= Some(30), "{paused:#}");
    cluster.wait("its ranks to end", |cluster| cluster.ranks().is_empty());
    cluster.kill_coordinator();
    cluster.start_coordinator();
    assert_eq!(cluster.job(&held)["state"], "PAUSED");
    let asked = cluster.cli(&["job", "resume", &held]);
    assert_eq!(asked.code, 0, "{}", asked.stderr);
    assert_as_if_alone(&cluster, &held, "held", &straight);

    // A worker is let run empty while a job goes on without it.
    let moved = cluster.submit(&job(&cluster, "moved").toml());
    Feed::to_step(&cluster.endpoint(), &moved, 10);
    let asked = cluster.cli(&["worker", "drain", "worker-0", "--reason", "dust"]);
    assert_eq!(asked.code, 0, "{}", asked.stderr);
    cluster.wait("the worker to be empty", |cluster| {
        standing(cluster, "worker-0") == "drained" && cluster.ranks_of(0).is_empty()
    });
    assert_as_if_alone(&cluster, &moved, "moved", &straight);
    let asked = cluster.cli(&["worker", "resume", "worker-0"]);
    assert_eq!(asked.code, 0, "{}", asked.stderr);
    assert_eq!(standing(&cluster, "worker-0"), "open");
}
