//! Whatever is killed, the job ends well, every step is committed once, and the model is that of
//! an undisturbed run, bit for bit.

use std::fs;
use std::time::Duration;

use espalier_random::{ChaCha8Rng, Rng as _, Stream, rng};
use espalier_tests::{Cluster, Feed, TinyJob, fresh_seed, program, weights};

/// What is killed.
#[derive(Clone, Copy, Debug)]
enum Victim {
    Rank,
    Worker,
    Coordinator,
}

/// How often each is killed.
const ROUNDS: u64 = 2;

/// Steps of a job.
const TOTAL: u64 = 60;

#[test]
fn a_job_survives_the_loss_of_any_process() {
    let seed =
        std::env::var("ESPALIER_KILL_SEED").map_or_else(|_| fresh_seed(), |s| s.parse().unwrap());
    println!("moments of the kills follow ESPALIER_KILL_SEED={seed}");

    let mut cluster = Cluster::start(2);
    let data = cluster.data();
    let job = |name: &str| TinyJob {
        workers: 2,
        search: 20,
        tune: TOTAL - 20,
        name: name.to_owned(),
        ..TinyJob::new(&data)
    };
    let (_, feed) = cluster.run(&job("undisturbed"));
    feed.assert_ledger(TOTAL);
    let expected = weights(&cluster.pull("undisturbed:latest", "undisturbed"));

    for round in 0..ROUNDS {
        for victim in [Victim::Rank, Victim::Worker, Victim::Coordinator] {
            let mut moments = rng(seed, Stream::Shuffle, round, victim as u64);
            let name = format!("{victim:?}-{round}").to_lowercase();
            let job_id = cluster.submit(&job(&name).toml());
            // Left before the end: ten steps and the report card.
            let step = moments.random_range(1..=TOTAL - 10);
            Feed::to_step(&cluster.endpoint(), &job_id, step);
            strike(&mut cluster, victim, &mut moments);

            let ended = cluster.succeeded(&job_id);
            let feed = Feed::read(&cluster.endpoint(), &job_id);
            feed.assert_ledger(TOTAL);
            let story = feed.story();
            feed.assert_never_back();
            assert!(
                ended["restarts"]
                    .as_object()
                    .is_some_and(serde_json::Map::is_empty),
                "{name} at {step}: {story:#?}"
            );
            let recoveries = match victim {
                // The survivor waits for another to take the place.
                Victim::Rank | Victim::Worker => 1,
                // Ranks step on while the coordinator is away.
                Victim::Coordinator => 0,
            };
            assert_eq!(
                ended["recoveries"], recoveries,
                "{name} at {step}: {story:#?}"
            );
            let pulled = cluster.pull(&format!("{name}:latest"), &name);
            assert!(
                weights(&pulled) == expected,
                "{name} at {step}: the model differs: {story:#?}"
            );
        }
    }
}

#[test]
fn a_worker_whose_program_is_taken_away_runs_jobs_with_the_one_it_began_with() {
    let mut cluster = Cluster::start(1);
    cluster.kill_worker(0);
    let copy = cluster.dir().join("installed");
    fs::copy(program("espalier-worker"), &copy).unwrap();
    cluster.start_worker_from(0, &copy);
    fs::remove_file(&copy).unwrap();
    cluster.run(&TinyJob::new(&cluster.data()));
}

/// Kills one process, and starts again what does not start by itself.
fn strike(cluster: &mut Cluster, victim: Victim, moments: &mut ChaCha8Rng) {
    match victim {
        Victim::Rank => {
            let ranks = cluster.ranks();
            assert_eq!(ranks.len(), 2, "the ranks are gone already");
            Cluster::kill_process(ranks[moments.random_range(0..ranks.len())]);
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
