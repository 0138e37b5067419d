//! A worker that is really slow is told of and replaced, and that costs no step.

use std::process::{Child, Command};

use espalier_tests::{Cluster, Feed, TinyJob, assert_close, assert_same_losses, weights};

/// Steps of the job: at full speed they last seconds, and minutes beside the slow rank.
const TOTAL: u64 = 400;

/// A process that runs for a few milliseconds in a tenth of a second; at full speed again when dropped.
struct Slowed {
    pid: u32,
    brake: Child,
}

impl Slowed {
    fn new(pid: u32) -> Self {
        let brake =
            format!("while kill -STOP {pid}; do sleep 0.1; kill -CONT {pid}; sleep 0.005; done");
        let mut shell = Command::new("sh");
        shell
            .args(["-c", &brake])
            .stderr(std::process::Stdio::null());
        Self {
            pid,
            brake: shell.spawn().unwrap(),
        }
    }
}

impl Drop for Slowed {
    fn drop(&mut self) {
        let _ = self.brake.kill();
        let _ = self.brake.wait();
        espalier_tests::signal("CONT", self.pid);
    }
}

/// Wide enough that a micro-batch takes longer than the slow rank runs at a time.
fn job(cluster: &Cluster, name: &str) -> String {
    let job = TinyJob {
        workers: 2,
        search: 20,
        tune: TOTAL - 20,
        every: 1000,
        name: name.to_owned(),
        ..TinyJob::new(&cluster.data())
    };
    job.toml()
        .replace("width = 32", "width = 128")
        .replace("[resources]", "[resources]\nstraggler = \"replace\"")
}

#[test]
fn a_slow_worker_is_replaced_without_losing_a_step() {
    let mut cluster = Cluster::start(2);
    let straight = cluster.submit(&job(&cluster, "straight"));
    cluster.succeeded(&straight);
    let straight = Feed::read(&cluster.endpoint(), &straight);
    let expected = weights(&cluster.pull("straight:latest", "straight"));

    let id = cluster.submit(&job(&cluster, "slowed"));
    Feed::to_step(&cluster.endpoint(), &id, 10);
    let slowed = Slowed::new(cluster.ranks_of(1)[0]);
    cluster.add_worker();
    cluster.wait("the slow worker to be let go", |cluster| {
        cluster.ranks_of(1).is_empty()
    });
    drop(slowed);
    cluster.succeeded(&id);
    let feed = Feed::read(&cluster.endpoint(), &id);
    let told = |reason: &&str| {
        reason.contains("of worker worker-1 takes") && reason.contains("as long for a micro-batch")
    };
    assert!(feed.story().iter().any(told), "{:#?}", feed.story());
    feed.assert_ledger(TOTAL);
    feed.assert_never_back();
    assert_same_losses(&straight, &feed);
    let pulled = cluster.pull("slowed:latest", "slowed");
    assert_close(&expected, &weights(&pulled));
}
