//! What a session refuses.

use espalier_proto::v1::session_request::Message;
use espalier_proto::v1::{Heartbeat, ListWorkersRequest, RankState};
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::bench::{Bench, Worker, spec};

#[tokio::test]
async fn the_first_message_must_be_a_registration() {
    let bench = Bench::start().await;
    let mut worker = Worker::say_first(&bench, "a", Message::Heartbeat(Heartbeat::default())).await;
    let refused = worker.message().await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert_eq!(
        refused.message(),
        "register must be the first message of a session"
    );
}

#[tokio::test]
async fn wrong_fields_of_a_registration_are_named() {
    let bench = Bench::start().await;
    let mut worker = Worker::open(&bench, "a b", "", &[]).await;
    let refused = worker.message().await.unwrap_err();
    let fields: Vec<String> = refused
        .get_details_bad_request()
        .unwrap()
        .field_violations
        .into_iter()
        .map(|violation| violation.field)
        .collect();
    assert_eq!(fields, ["register.worker_id", "register.incarnation"]);
    let known = bench
        .workers()
        .await
        .list_workers(ListWorkersRequest {})
        .await
        .unwrap();
    assert!(known.into_inner().workers.is_empty());
}

#[tokio::test]
async fn a_newer_session_of_a_worker_replaces_the_older() {
    let bench = Bench::start().await;
    let mut old = Worker::join(&bench, "a", "a1", &[]).await;
    let _new = Worker::join(&bench, "a", "a1", &[]).await;
    let replaced = old.message().await.unwrap_err();
    assert_eq!(replaced.code(), Code::Aborted);
    let known = bench
        .workers()
        .await
        .list_workers(ListWorkersRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(known.workers.len(), 1);
    assert!(known.workers[0].connected);
}

#[tokio::test]
async fn stale_and_foreign_reports_change_nothing() {
    let bench = Bench::start().await;
    let job = bench.submit("r1", &spec(1, 1)).await.unwrap();
    let mut member = Worker::join(&bench, "a", "a1", &[]).await;
    let mut other = Worker::join(&bench, "b", "b1", &[]).await;
    let start = member.started().await;
    let before = bench.job(&job.job_id).await;
    other.report(&start, RankState::Running).await;
    other.acked(1).await;
    member
        .report_with(&start, |report| {
            report.set_state(RankState::Running);
            report.generation -= 1;
        })
        .await;
    member
        .report_with(&start, |report| {
            report.set_state(RankState::Failed);
            report.seat = 5;
        })
        .await;
    member
        .report_with(&start, |report| {
            report.set_state(RankState::Failed);
            "j99999999".clone_into(&mut report.job_id);
        })
        .await;
    member.acked(3).await;
    assert_eq!(bench.job(&job.job_id).await, before);
}

#[tokio::test]
async fn workers_are_listed_with_what_they_run() {
    let bench = Bench::start().await;
    let job = bench.submit("r1", &spec(1, 1)).await.unwrap();
    let mut worker = Worker::join(&bench, "a", "a1", &[]).await;
    worker.started().await;
    let listed = bench
        .workers()
        .await
        .list_workers(ListWorkersRequest {})
        .await
        .unwrap()
        .into_inner();
    let found = &listed.workers[0];
    assert_eq!(
        (found.worker_id.as_str(), found.used, found.slots),
        ("a", 1, 1)
    );
    assert_eq!(found.job_ids, [job.job_id]);
}
