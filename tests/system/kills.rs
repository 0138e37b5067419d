//! Whatever is killed, the job ends well, every step is committed once, and the model is that of
//! an undisturbed run, bit for bit.

use std::time::Duration;

use espalier_random::{ChaCha8Rng, Rng as _, Stream, rng};
use espalier_tests::{Cluster, Feed, TinyJob};

use crate::invariance::weights;

/// What is killed.
#[derive(Clone, Copy, Debug)]
enum Victim {
    Rank,
    Worker,
    Coordinator,
}

#[test]
fn a_job_survives_the_loss_of_any_process() {
    let seed =
        std::env::var("ESPALIER_KILL_SEED").map_or_else(|_| fresh_seed(), |s| s.parse().unwrap());
    println!("moments of the kills follow ESPALIER_KILL_SEED={seed}");
    let mut moments = rng(seed, Stream::Shuffle, 0, 0);

    let mut cluster = Cluster::start(2);
    let job = |name: &str| TinyJob {
        workers: 2,
        search: 40,
        tune: 60,
        name: name.to_owned(),
        ..TinyJob::new(&cluster.data())
    };
    let jobs: Vec<(Victim, TinyJob)> = [Victim::Rank, Victim::Worker, Victim::Coordinator]
        .into_iter()
        .map(|victim| (victim, job(&format!("{victim:?}").to_lowercase())))
        .collect();
    let undisturbed = job("undisturbed");
    let (_, feed) = cluster.run(&undisturbed);
    feed.assert_ledger(100);
    let expected = weights(&cluster.pull("undisturbed:latest", "undisturbed"));

    for (victim, job) in jobs {
        let job_id = cluster.submit(&job.toml());
        strike(&mut cluster, victim, &job_id, &mut moments);
        let ended = cluster.succeeded(&job_id);
        let feed = Feed::read(&cluster.endpoint(), &job_id);
        feed.assert_ledger(100);
        let pulled = cluster.pull(&format!("{}:latest", job.name), &job.name);
        assert!(
            weights(&pulled) == expected,
            "after the loss of a {victim:?} the model differs: {ended:#}"
        );
        let story: Vec<&str> = feed.events.iter().map(|e| e.reason.as_str()).collect();
        let restarts = ended["restarts"]["infrastructure"].as_u64().unwrap_or(0);
        match victim {
            // Ranks step on while the coordinator is away.
            Victim::Coordinator => assert_eq!(restarts, 0, "{story:#?}"),
            Victim::Rank | Victim::Worker => assert!(restarts <= 1, "{story:#?}"),
        }
    }
}

/// Kills at a random moment after the ranks have started.
fn strike(cluster: &mut Cluster, victim: Victim, job_id: &str, moments: &mut ChaCha8Rng) {
    cluster.wait("two ranks to run", |cluster| {
        cluster.ranks().len() == 2 && cluster.job(job_id)["state"] == "RUNNING"
    });
    std::thread::sleep(Duration::from_millis(moments.random_range(0..3000)));
    match victim {
        Victim::Rank => {
            let ranks = cluster.ranks();
            if !ranks.is_empty() {
                Cluster::kill_process(ranks[moments.random_range(0..ranks.len())]);
            }
        }
        Victim::Worker => {
            let index = moments.random_range(0..2);
            cluster.kill_worker(index);
            cluster.start_worker(index);
        }
        Victim::Coordinator => {
            cluster.kill_coordinator();
            std::thread::sleep(Duration::from_millis(moments.random_range(0..1500)));
            cluster.start_coordinator();
        }
    }
}

fn fresh_seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.unwrap().as_secs()
}
