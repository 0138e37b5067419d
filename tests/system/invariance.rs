//! A step is a pure function of (job, seed, step, parameters): how many workers run it, and how
//! often the job was stopped on the way, changes nothing.

use espalier_tests::{Cluster, TinyJob, assert_close, assert_same_losses, weights};

#[test]
fn one_two_and_three_workers_train_the_same_model() {
    let cluster = Cluster::start(3);
    let job = |workers: u32, name: &str| TinyJob {
        workers,
        name: name.to_owned(),
        ..TinyJob::new(&cluster.data())
    };
    let mut runs = Vec::new();
    for (workers, name) in [(1, "w1"), (2, "w2"), (3, "w3"), (3, "again")] {
        let (_, feed) = cluster.run(&job(workers, name));
        feed.assert_ledger(50);
        assert_eq!(feed.losses().len(), 50, "{name}");
        let dir = cluster.pull(&format!("{name}:latest"), name);
        runs.push((feed, weights(&dir)));
    }

    let (one, model) = &runs[0];
    for (other, other_model) in &runs[1..] {
        assert_same_losses(one, other);
        assert_close(model, other_model);
    }
    assert_eq!(
        runs[2].0.bits(),
        runs[3].0.bits(),
        "two runs of three workers differ"
    );
    assert!(runs[2].1 == runs[3].1, "two runs of three workers differ");
}
