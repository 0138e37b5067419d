//! The coordinator goes and comes back; workers go and come back.

use std::time::Duration;

use espalier_coordinator::Options;
use espalier_proto::v1::{JobState, RankState};

use crate::bench::{Bench, Worker, spec};

fn short_lease() -> Options {
    Options {
        lease_ttl: Duration::from_millis(1500),
        ..Options::default()
    }
}

#[tokio::test]
async fn a_running_job_goes_on_over_a_restart() {
    let mut bench = Bench::start().await;
    let job = bench.submit("r1", &spec(1, 1)).await.unwrap();
    let mut worker = Worker::join(&bench, "a", "a1", &[]).await;
    let start = worker.started().await;
    worker.report(&start, RankState::Running).await;
    bench.reach(&job.job_id, JobState::Running).await;
    bench
        .push(&job.job_id, start.generation, 10, false)
        .await
        .unwrap();
    let before = bench.job(&job.job_id).await;
    bench.restart().await;
    assert_eq!(bench.job(&job.job_id).await, before);
    let _worker = Worker::join(&bench, "a", "a1", &[(&job.job_id, start.generation)]).await;
    // The same submit still is the same job.
    assert_eq!(bench.submit("r1", &spec(1, 1)).await.unwrap(), before);
    bench
        .push(&job.job_id, start.generation, 20, true)
        .await
        .unwrap();
    let done = bench.job(&job.job_id).await;
    assert_eq!(done.state(), JobState::Succeeded);
    assert!(done.restarts.is_empty());
}

#[tokio::test]
async fn a_worker_that_does_not_come_back_is_lost_after_the_grace() {
    let mut bench = Bench::with(short_lease()).await;
    let job = bench.submit("r1", &spec(1, 1)).await.unwrap();
    let mut gone = Worker::join(&bench, "a", "a1", &[]).await;
    let start = gone.started().await;
    bench.restart().await;
    let mut other = Worker::join(&bench, "b", "b1", &[]).await;
    let beats = other.beats();
    let again = tokio::select! {
        again = other.started() => again,
        () = beats => panic!("the session ended"),
    };
    assert!(again.generation > start.generation);
    let job = bench.job(&job.job_id).await;
    assert_eq!(
        (job.state(), job.worker_ids),
        (JobState::Placing, vec!["b".to_owned()])
    );
    assert_eq!(job.restarts.get("infrastructure"), Some(&1));
}

#[tokio::test]
async fn a_restarted_worker_is_told_to_start_again() {
    let bench = Bench::start().await;
    bench.submit("r1", &spec(1, 1)).await.unwrap();
    let mut worker = Worker::join(&bench, "a", "a1", &[]).await;
    let start = worker.started().await;
    drop(worker);
    let mut restarted = Worker::join(&bench, "a", "a2", &[]).await;
    let (generation, reason) = restarted.revoked().await;
    assert_eq!(generation, start.generation);
    assert!(reason.starts_with("worker a was restarted"), "{reason}");
    assert!(restarted.started().await.generation > start.generation);
}

#[tokio::test]
async fn a_start_that_was_lost_with_its_session_is_sent_again() {
    let bench = Bench::start().await;
    bench.submit("r1", &spec(1, 1)).await.unwrap();
    let mut worker = Worker::join(&bench, "a", "a1", &[]).await;
    let start = worker.started().await;
    drop(worker);
    let mut again = Worker::join(&bench, "a", "a1", &[]).await;
    assert_eq!(again.started().await, start);
    drop(again);
    let mut running = Worker::join(&bench, "a", "a1", &[(&start.job_id, start.generation)]).await;
    running.report(&start, RankState::Running).await;
    running.acked(1).await;
    bench.reach(&start.job_id, JobState::Running).await;
}

#[tokio::test]
async fn ranks_of_a_gang_that_is_over_are_revoked_at_registration() {
    let bench = Bench::start().await;
    let mut worker = Worker::join(&bench, "a", "a1", &[("j00000042", 7)]).await;
    assert_eq!(worker.revoked().await.0, 7);
}

#[tokio::test]
async fn ranks_that_vanished_without_a_report_are_started_anew() {
    let bench = Bench::with(short_lease()).await;
    let job = bench.submit("r1", &spec(1, 1)).await.unwrap();
    let mut worker = Worker::join(&bench, "a", "a1", &[]).await;
    let start = worker.started().await;
    worker.report(&start, RankState::Running).await;
    bench.reach(&job.job_id, JobState::Running).await;
    drop(worker);
    let mut empty = Worker::join(&bench, "a", "a1", &[]).await;
    let beats = empty.beats();
    let told = async {
        let (_, reason) = empty.revoked().await;
        (reason, empty.started().await)
    };
    let (reason, again) = tokio::select! {
        told = told => told,
        () = beats => panic!("the session ended"),
    };
    assert!(
        reason.starts_with("worker a registered without the ranks"),
        "{reason}"
    );
    assert!(again.generation > start.generation);
    let job = bench.job(&job.job_id).await;
    assert_eq!(job.restarts.get("infrastructure"), Some(&1));
}
