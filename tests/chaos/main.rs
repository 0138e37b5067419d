//! Minutes of faults on a site of eight hosts, each in a network namespace: three members of etcd, two
//! coordinators, three workers. Every job that is submitted meanwhile ends as one that nothing happened to.
#![forbid(unsafe_code)]
// The exemption for tests does not reach their helpers.
#![allow(clippy::expect_used, clippy::unwrap_used)]

mod faults;
mod network;
mod site;

use std::path::Path;
use std::time::{Duration, Instant};

use espalier_random::{Stream, rng};
use espalier_tests::{
    Feed, TinyJob, assert_close, assert_no_other_losses, fresh_seed, is_end, weights,
};
use serde_json::Value;

use faults::Fault;
use site::Site;

/// Steps of a job: enough for several faults.
const TOTAL: u64 = 600;

/// Jobs that share the workers.
const AT_ONCE: usize = 2;

/// Longest that a job may take once nothing disturbs it any more.
const PATIENCE: Duration = Duration::from_secs(600);

#[test]
#[ignore = "takes ten minutes, and needs root: make chaos"]
fn every_job_ends_as_if_nothing_had_happened() {
    let minutes: f64 = setting("ESPALIER_CHAOS_MINUTES").unwrap_or(10.0);
    let seed: u64 = setting("ESPALIER_CHAOS_SEED").unwrap_or_else(fresh_seed);
    println!("ESPALIER_CHAOS_SEED={seed} ESPALIER_CHAOS_MINUTES={minutes}");
    let mut site = match Site::start() {
        Ok(site) => site,
        Err(why) => {
            eprintln!("SKIPPED, NOT TESTED: this machine has no hosts for it: {why}");
            return;
        }
    };
    let straight = Straight::run(&site);

    let start = Instant::now();
    let (mut jobs, mut faults) = (0, 0);
    let mut under_way: Vec<Submitted> = Vec::new();
    while start.elapsed().as_secs_f64() < 60.0 * minutes {
        while under_way.len() < AT_ONCE {
            under_way.push(submit(&site, &format!("job-{jobs}")));
            jobs += 1;
        }
        let mut random = rng(seed, Stream::Shuffle, faults, 0);
        let fault = Fault::draw(&mut random);
        let (pause, lasts) = (Fault::pause(&mut random), Fault::duration(&mut random));
        // Before the fault, so that a job that has just been submitted may have come to its steps.
        std::thread::sleep(pause);
        let at = start.elapsed().as_secs_f64();
        println!("{at:6.1} s  {fault} for {:.1} s", lasts.as_secs_f64());
        fault.inject(&mut site);
        std::thread::sleep(lasts);
        fault.undo(&mut site);
        faults += 1;
        let ended = |job: &mut Submitted| state(&site, &job.id).is_some_and(|state| is_end(&state));
        for job in under_way.extract_if(.., ended) {
            straight.compare(&site, &job);
        }
    }
    for job in under_way {
        straight.compare(&site, &job);
    }
    println!("{jobs} jobs and {faults} faults");
}

/// A job that was acknowledged.
struct Submitted {
    id: String,
    name: String,
}

/// A run that nothing happened to.
struct Straight {
    feed: Feed,
    weights: Vec<u8>,
}

impl Straight {
    fn run(site: &Site) -> Self {
        let (feed, weights) = succeeded(site, &submit(site, "straight"));
        Self { feed, weights }
    }

    /// Waits for the end of a job that was disturbed, and holds it against this one.
    #[track_caller]
    fn compare(&self, site: &Site, job: &Submitted) {
        let (feed, weights) = succeeded(site, job);
        let (described, recoveries) = (describe(site, &job.id), feed.recoveries().len());
        println!(
            "{}: {recoveries} recoveries in memory, restarts {}",
            job.name,
            described.unwrap()["restarts"]
        );
        assert_no_other_losses(&self.feed, &feed);
        assert_close(&self.weights, &weights);
    }
}

/// Submits a job of this name until it is acknowledged.
#[track_caller]
fn submit(site: &Site, name: &str) -> Submitted {
    let job = TinyJob {
        workers: 3,
        min_workers: Some(1),
        search: 240,
        tune: TOTAL - 240,
        every: 100,
        name: name.to_owned(),
        ..TinyJob::new(&site.data())
    };
    let file = site.folder(&format!("{name}.toml"));
    std::fs::write(&file, job.toml()).unwrap();
    let start = Instant::now();
    loop {
        let ran = site.cli(&["job", "submit", "-f", text(&file), "--request-id", name]);
        if ran.code == 0 {
            return Submitted {
                id: ran.stdout.trim().to_owned(),
                name: name.to_owned(),
            };
        }
        assert!(
            start.elapsed() < PATIENCE,
            "submitting {name}: {}",
            ran.stderr
        );
    }
}

/// Waits for the job's success; gives its feed and the published weights.
#[track_caller]
fn succeeded(site: &Site, job: &Submitted) -> (Feed, Vec<u8>) {
    let (job_id, name) = (&job.id, &job.name);
    let start = Instant::now();
    let end = loop {
        match state(site, job_id) {
            Some(end) if is_end(&end) => break end,
            last => assert!(start.elapsed() < PATIENCE, "{name} does not end: {last:?}"),
        }
        std::thread::sleep(Duration::from_millis(500));
    };
    site.wait("a coordinator to lead", |site| site.leader().is_some());
    let leader = site.leader().unwrap();
    let feed = Feed::read(&site.endpoint_of(&leader), job_id);
    assert_eq!(end, "SUCCEEDED", "{name}: {:#?}", feed.story());
    feed.assert_ledger(TOTAL);
    let target = site.folder(&format!("{name}-pulled"));
    let pulled = site.cli(&[
        "checkpoint",
        "pull",
        &format!("{name}:latest"),
        text(&target),
    ]);
    assert_eq!(pulled.code, 0, "{}", pulled.stderr);
    (feed, weights(&target))
}

/// The job as JSON; `None` while nobody can say.
fn describe(site: &Site, job_id: &str) -> Option<Value> {
    let ran = site.cli(&["job", "describe", job_id, "-o", "json"]);
    serde_json::from_str(&ran.stdout).ok()
}

fn state(site: &Site, job_id: &str) -> Option<String> {
    Some(describe(site, job_id)?["state"].as_str()?.to_owned())
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn setting<T: std::str::FromStr>(name: &str) -> Option<T> {
    let text = std::env::var(name).ok()?;
    match text.parse() {
        Ok(value) => Some(value),
        Err(_) => panic!("{name}={text} is no number"),
    }
}
