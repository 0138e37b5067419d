//! Two coordinators on one etcd: whatever is killed or hangs, one leads, and a job goes on.

use std::time::Instant;

use espalier_proto::not_leader;
use espalier_proto::v1::SubmitJobRequest;
use espalier_proto::v1::job_service_client::JobServiceClient;
use espalier_tests::{Cluster, Etcd, Feed, TinyJob};

/// Steps of a job.
const TOTAL: u64 = 60;

fn job(cluster: &Cluster, name: &str) -> TinyJob {
    TinyJob {
        workers: 2,
        search: 20,
        tune: TOTAL - 20,
        name: name.to_owned(),
        ..TinyJob::new(&cluster.data())
    }
}

#[track_caller]
fn leader(cluster: &Cluster) -> usize {
    cluster.wait("a coordinator to lead", |cluster| {
        cluster.leader().is_some()
    });
    cluster.leader().unwrap()
}

/// Submits to one coordinator; the answer is the job's id.
#[track_caller]
fn submit_at(cluster: &Cluster, index: usize, toml: &str, request_id: &str) -> String {
    let file = cluster.dir().join(format!("{request_id}.toml"));
    std::fs::write(&file, toml).unwrap();
    let ran = cluster.cli(&[
        "job",
        "submit",
        "-f",
        file.to_str().unwrap(),
        "--request-id",
        request_id,
        "--endpoint",
        &cluster.endpoint_at(index),
    ]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    ran.stdout.trim().to_owned()
}

/// The job succeeded, on the ranks with which it began, and each step was committed once.
#[track_caller]
fn undisturbed(cluster: &Cluster, reader: usize, job_id: &str) {
    let ended = cluster.succeeded(job_id);
    let feed = Feed::read(&cluster.endpoint_at(reader), job_id);
    let story: Vec<&str> = feed.events.iter().map(|e| e.reason.as_str()).collect();
    let restarts = ended["restarts"]["infrastructure"].as_u64().unwrap_or(0);
    assert_eq!(restarts, 0, "{story:#?}");
    feed.assert_ledger(TOTAL);
}

#[test]
fn a_leader_that_is_killed_or_hangs_is_replaced_and_the_job_goes_on() {
    let Some(etcd) = Etcd::start(1, &[]) else {
        return;
    };
    let mut cluster = Cluster::start_pair(etcd.url(), 2);
    let first = leader(&cluster);
    let other = 1 - first;

    // What is submitted to the other reaches the leader; what is read may be read there.
    let toml = job(&cluster, "killed").toml();
    let job_id = submit_at(&cluster, other, &toml, "once");
    Feed::to_step(&cluster.endpoint_at(other), &job_id, 5);
    cluster.kill_coordinator_at(first);
    let killed = Instant::now();
    assert_eq!(leader(&cluster), other);
    println!(
        "another led {:?} after the leader was killed",
        killed.elapsed()
    );
    assert_eq!(submit_at(&cluster, other, &toml, "once"), job_id);
    undisturbed(&cluster, other, &job_id);
    cluster.start_coordinator_at(first);
    assert_eq!(leader(&cluster), other);

    // The one that leads now is stopped, with submits in its ears, and wakes up replaced.
    let job_id = submit_at(&cluster, first, &job(&cluster, "stopped").toml(), "twice");
    Feed::to_step(&cluster.endpoint_at(first), &job_id, 5);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut client = runtime
        .block_on(JobServiceClient::connect(cluster.endpoint_at(other)))
        .unwrap();
    cluster.signal_coordinator(other, "STOP");
    let stopped = Instant::now();
    let late = SubmitJobRequest {
        request_id: "late".to_owned(),
        spec_toml: job(&cluster, "late").toml(),
    };
    let late = runtime.spawn(async move { client.submit_job(late).await });
    cluster.wait("the other to lead", |cluster| cluster.leads(first));
    println!(
        "another led {:?} after the leader was stopped",
        stopped.elapsed()
    );
    cluster.signal_coordinator(other, "CONT");
    let refused = runtime.block_on(late).unwrap().unwrap_err();
    let address = cluster.endpoint_at(first).replace("http://", "");
    assert_eq!(not_leader(&refused), Some(Some(address)), "{refused:?}");
    assert!(cluster.leads(first) && !cluster.leads(other));
    undisturbed(&cluster, other, &job_id);
    let listed = cluster.cli(&["job", "list", "-o", "json"]);
    let jobs: serde_json::Value = serde_json::from_str(&listed.stdout).unwrap();
    assert_eq!(jobs.as_array().unwrap().len(), 2, "a late write was made");

    // One that is asked to end does not keep the other waiting.
    cluster.signal_coordinator(first, "TERM");
    let asked = Instant::now();
    cluster.wait("the other to lead", |cluster| cluster.leads(other));
    println!(
        "another led {:?} after the leader was asked to end",
        asked.elapsed()
    );
}

#[test]
fn nothing_ends_when_a_member_of_etcd_does() {
    let Some(mut etcd) = Etcd::start(3, &[]) else {
        return;
    };
    let cluster = Cluster::start_pair(etcd.url(), 2);
    let leads = leader(&cluster);
    let job_id = cluster.submit(&job(&cluster, "etcd").toml());
    Feed::to_step(&cluster.endpoint_at(0), &job_id, 5);
    etcd.kill(etcd.leading());
    undisturbed(&cluster, leads, &job_id);
    // On a busy machine etcd's election may outlast the leader's lease: then the other leads.
    println!("the same leads: {}", leader(&cluster) == leads);
}

#[test]
fn a_coordinator_without_the_shared_folder_is_refused() {
    let Some(etcd) = Etcd::start(1, &[]) else {
        return;
    };
    let cluster = Cluster::start_pair(etcd.url(), 0);
    leader(&cluster);
    let alone = cluster.dir().join("alone");
    let refused = espalier_tests::Ran::of(
        std::process::Command::new(espalier_tests::program("espalier-coordinator"))
            .args(["--listen", "127.0.0.1:0", "--advertise", "127.0.0.1:1"])
            .args(["--store", &etcd.url(), "--data-dir"])
            .arg(&alone),
    );
    assert_ne!(refused.code, 0);
    let text = &refused.stderr;
    assert!(
        text.contains("is not where the chunks of this deployment lie")
            && text.contains("--data-dir"),
        "{text}"
    );
}
