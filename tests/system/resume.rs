//! A job that was stopped and went on from its checkpoint is the job that was never stopped.

use std::fs;
use std::path::Path;

use espalier_tests::{Cluster, Feed, TinyJob, weights};

/// The tensors of a training checkpoint.
const TRAINING: [&str; 3] = [
    "model.safetensors",
    "optimizer.safetensors",
    "ema.safetensors",
];

#[test]
fn stopped_in_each_stage_a_job_ends_bit_equal_to_one_that_never_was() {
    let cluster = Cluster::start(2);
    let job = |name: &str| TinyJob {
        workers: 2,
        name: name.to_owned(),
        ..TinyJob::new(&cluster.data())
    };
    let (straight_id, straight) = cluster.run(&job("straight"));

    let stopped_id = cluster.submit(&job("stopped").toml());
    // Steps 13 and 33 lie between two checkpoints, in the search and in the tune stage.
    for step in [13, 33] {
        Feed::to_step(&cluster.endpoint(), &stopped_id, step);
        stop(&cluster);
    }
    let ended = cluster.succeeded(&stopped_id);
    assert_eq!(ended["restarts"]["infrastructure"], 2, "{ended:#}");
    let stopped = Feed::read(&cluster.endpoint(), &stopped_id);
    stopped.assert_ledger(50);
    let resumed = first_steps(&stopped);
    assert!(
        matches!(resumed[..], [1, second, third] if second > 10 && third > 30),
        "the generations started at steps {resumed:?}, not after a checkpoint"
    );

    assert_eq!(stopped.bits(), straight.bits());
    let pulled = |reference: &str, name: &str| cluster.pull(reference, name);
    assert!(
        weights(&pulled("stopped:latest", "stopped"))
            == weights(&pulled("straight:latest", "straight")),
        "the models differ"
    );
    let stopped = pulled(&format!("job-{stopped_id}:latest"), "stopped-state");
    let straight = pulled(&format!("job-{straight_id}:latest"), "straight-state");
    assert_eq!(step(&stopped), step(&straight));
    for file in TRAINING {
        assert!(
            fs::read(stopped.join(file)).unwrap() == fs::read(straight.join(file)).unwrap(),
            "{file} of the training checkpoints differ"
        );
    }
}

#[test]
fn a_job_that_began_with_a_checkpoint_goes_on_from_its_own() {
    let cluster = Cluster::start(1);
    let dense = TinyJob {
        search: 5,
        tune: 5,
        mode: "dense",
        name: "dense".to_owned(),
        ..TinyJob::new(&cluster.data())
    };
    cluster.run(&dense);
    let job = TinyJob {
        init: "{ checkpoint = \"dense:latest\" }".to_owned(),
        ..TinyJob::new(&cluster.data())
    };
    let job_id = cluster.submit(&job.toml());
    Feed::to_step(&cluster.endpoint(), &job_id, 13);
    stop(&cluster);
    let ended = cluster.succeeded(&job_id);
    assert_eq!(ended["restarts"]["infrastructure"], 1, "{ended:#}");
    Feed::read(&cluster.endpoint(), &job_id).assert_ledger(50);
}

/// Kills all ranks at once.
#[track_caller]
fn stop(cluster: &Cluster) {
    let ranks = cluster.ranks();
    assert!(!ranks.is_empty(), "there is nothing to stop");
    for pid in ranks {
        Cluster::kill_process(pid);
    }
}

/// The first step that each generation measured.
fn first_steps(feed: &Feed) -> Vec<u64> {
    let mut steps = Vec::new();
    let mut generation = 0;
    for record in &feed.metrics {
        if record.generation != generation {
            generation = record.generation;
            steps.push(record.step);
        }
    }
    steps
}

/// The step of a pulled training checkpoint.
fn step(dir: &Path) -> u64 {
    let state = fs::read(dir.join("state.json")).unwrap();
    let state: serde_json::Value = serde_json::from_slice(&state).unwrap();
    state["step"].as_u64().unwrap()
}
