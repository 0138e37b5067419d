//! The life of a job, from submit to its end.

use espalier_proto::v1::session_request::Message;
use espalier_proto::v1::session_response;
use espalier_proto::v1::watch_job_response::Entry;
use espalier_proto::v1::{
    CancelJobRequest, FaultKind, JobEventKind, JobState, LogLine, LogReport, MetricsReport,
    RankState, RendezvousReady, StepMetrics, StreamLogsRequest, WarningReport,
};

use crate::bench::{Bench, Worker, events, spec};

#[tokio::test]
async fn a_job_is_placed_meets_trains_and_is_published() {
    let bench = Bench::start().await;
    let job = bench.submit("r1", &spec(2, 2)).await.unwrap();
    assert_eq!(job.state(), JobState::Queued);
    let mut first = Worker::join(&bench, "a", "a1", &[]).await;
    let mut second = Worker::join(&bench, "b", "b1", &[]).await;
    let (start_a, start_b) = (first.started().await, second.started().await);
    assert_eq!(
        (start_a.world_size, start_a.first_rank, start_a.rank_count),
        (2, 0, 1)
    );
    assert_eq!(
        (start_b.world_size, start_b.first_rank, start_b.rank_count),
        (2, 1, 1)
    );
    assert_eq!(start_a.generation, start_b.generation);
    assert_eq!(start_a.spec_toml, spec(2, 2));

    let ready = RendezvousReady {
        job_id: job.job_id.clone(),
        generation: start_a.generation,
        address: "127.0.0.1:4000".to_owned(),
    };
    first.say(Message::RendezvousReady(ready)).await;
    for worker in [&mut first, &mut second] {
        match worker.next().await {
            session_response::Message::Rendezvous(meet) => {
                assert_eq!(meet.address, "127.0.0.1:4000");
                assert_eq!(meet.generation, start_a.generation);
            }
            other => panic!("expected the rendezvous, got {other:?}"),
        }
    }
    first.report(&start_a, RankState::Running).await;
    first.acked(1).await;
    assert_eq!(bench.job(&job.job_id).await.state(), JobState::Placing);
    second.report(&start_b, RankState::Running).await;
    let running = bench.reach(&job.job_id, JobState::Running).await;
    assert_eq!(
        (running.total_steps, running.generation),
        (20, start_a.generation)
    );
    assert_eq!(running.worker_ids, ["a", "b"]);

    let training = bench
        .push(&job.job_id, start_a.generation, 10, false)
        .await
        .unwrap();
    assert_eq!(bench.job(&job.job_id).await.checkpoint_digest, training);
    let number = first.number();
    first
        .say(Message::Metrics(MetricsReport {
            sequence: number,
            job_id: job.job_id.clone(),
            metrics: Some(StepMetrics {
                generation: start_a.generation,
                step: 20,
                total_steps: 20,
                ..StepMetrics::default()
            }),
        }))
        .await;
    bench.reach(&job.job_id, JobState::Publishing).await;
    let model = bench
        .push(&job.job_id, start_a.generation, 20, true)
        .await
        .unwrap();
    let done = bench.job(&job.job_id).await;
    assert_eq!(done.state(), JobState::Succeeded);
    assert_eq!(
        (done.published_digest.as_str(), done.committed_step),
        (model.as_str(), 20)
    );
    assert!(done.end_time.is_some());

    let feed = bench.feed(&job.job_id, 0).await;
    let cursors: Vec<u64> = feed.iter().map(|(cursor, _)| *cursor).collect();
    assert_eq!(cursors, (1..=feed.len() as u64).collect::<Vec<_>>());
    let kinds: Vec<JobEventKind> = events(&feed).iter().map(|event| event.kind()).collect();
    assert_eq!(
        kinds,
        [
            JobEventKind::Submitted,
            JobEventKind::StateChanged,
            JobEventKind::Placed,
            JobEventKind::StateChanged,
            JobEventKind::StepsCommitted,
            JobEventKind::StateChanged,
            JobEventKind::StepsCommitted,
            JobEventKind::Published,
            JobEventKind::StateChanged,
        ]
    );
    assert!(
        feed.iter()
            .any(|(_, entry)| matches!(entry, Entry::Metrics(m) if m.step == 20))
    );
    assert!(
        events(&feed)[1..]
            .iter()
            .all(|event| event.generation == start_a.generation)
    );
    let tail = bench.feed(&job.job_id, 4).await;
    assert_eq!(tail, feed[4..]);
    assert!(bench.feed(&job.job_id, feed.len() as u64).await.is_empty());

    // Its workers are told to let go of it, and are free for the next.
    let (ended, reason) = first.revoked().await;
    assert_eq!(
        (ended, reason.as_str()),
        (start_a.generation, "the job has ended")
    );
    bench.submit("r2", &spec(2, 2)).await.unwrap();
    assert!(first.started().await.generation > start_a.generation);
}

#[tokio::test]
async fn a_failed_rank_restarts_the_gang_from_its_checkpoint() {
    let bench = Bench::start().await;
    let job = bench.submit("r1", &spec(1, 1)).await.unwrap();
    let mut worker = Worker::join(&bench, "a", "a1", &[]).await;
    let start = worker.started().await;
    worker.report(&start, RankState::Running).await;
    let digest = bench
        .push(&job.job_id, start.generation, 7, false)
        .await
        .unwrap();
    worker
        .report_with(&start, |report| {
            report.set_state(RankState::Failed);
            report.set_fault(FaultKind::Infrastructure);
            report.reason = "killed by signal 9".to_owned();
        })
        .await;
    let (generation, reason) = worker.revoked().await;
    assert_eq!(generation, start.generation);
    assert_eq!(
        reason,
        "rank 0 of worker a lost (killed by signal 9); restart 1 of 20"
    );
    let again = worker.started().await;
    assert!(again.generation > start.generation);
    assert_eq!((again.resume_digest, again.committed_step), (digest, 7));
    let stale = bench
        .push(&job.job_id, start.generation, 14, false)
        .await
        .unwrap_err();
    assert_eq!(stale.code(), Some(tonic::Code::Aborted));
    bench
        .push(&job.job_id, again.generation, 20, true)
        .await
        .unwrap();
    let done = bench.job(&job.job_id).await;
    assert_eq!(done.state(), JobState::Succeeded);
    assert_eq!(done.restarts.get("infrastructure"), Some(&1));
    let feed = bench.feed(&job.job_id, 0).await;
    let committed: Vec<(u64, u64)> = events(&feed)
        .iter()
        .filter(|event| event.kind() == JobEventKind::StepsCommitted)
        .map(|event| (event.first_step, event.last_step))
        .collect();
    assert_eq!(committed, [(1, 7), (8, 20)]);
}

#[tokio::test]
async fn a_fault_of_the_user_ends_the_job_at_once() {
    let bench = Bench::start().await;
    let job = bench.submit("r1", &spec(1, 1)).await.unwrap();
    let mut worker = Worker::join(&bench, "a", "a1", &[]).await;
    let start = worker.started().await;
    worker
        .report_with(&start, |report| {
            report.set_state(RankState::Failed);
            report.set_fault(FaultKind::User);
            report.reason = "data.train: /data/train does not exist".to_owned();
        })
        .await;
    worker.revoked().await;
    let failed = bench.reach(&job.job_id, JobState::Failed).await;
    assert_eq!(
        failed.reason,
        "rank 0: data.train: /data/train does not exist"
    );
    assert!(failed.restarts.is_empty());
}

#[tokio::test]
async fn cancel_revokes_and_is_final() {
    let bench = Bench::start().await;
    let job = bench.submit("r1", &spec(1, 1)).await.unwrap();
    let mut worker = Worker::join(&bench, "a", "a1", &[]).await;
    let start = worker.started().await;
    let request = CancelJobRequest {
        job_id: job.job_id.clone(),
        reason: "wrong data".to_owned(),
    };
    let answer = bench
        .jobs()
        .await
        .cancel_job(request.clone())
        .await
        .unwrap();
    assert_eq!(
        answer.into_inner().job.unwrap().state(),
        JobState::Cancelling
    );
    assert_eq!(
        worker.revoked().await,
        (start.generation, "wrong data".to_owned())
    );
    let cancelled = bench.reach(&job.job_id, JobState::Cancelled).await;
    assert_eq!(cancelled.reason, "wrong data");
    let refused = bench
        .push(&job.job_id, start.generation, 5, false)
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Some(tonic::Code::Aborted));
    let again = bench
        .jobs()
        .await
        .cancel_job(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(again.job.unwrap(), cancelled);
}

#[tokio::test]
async fn reports_are_stored_once_however_often_they_are_sent() {
    let bench = Bench::start().await;
    let job = bench.submit("r1", &spec(1, 1)).await.unwrap();
    let mut worker = Worker::join(&bench, "a", "a1", &[]).await;
    let start = worker.started().await;
    worker.report(&start, RankState::Running).await;
    let reports = |first: u64| {
        let warning = WarningReport {
            sequence: first,
            job_id: start.job_id.clone(),
            generation: start.generation,
            reason: "a gate never closes".to_owned(),
        };
        let logs = LogReport {
            sequence: first + 1,
            job_id: start.job_id.clone(),
            generation: start.generation,
            rank: 0,
            lines: ["one", "two"]
                .map(|text| LogLine {
                    time: None,
                    text: text.to_owned(),
                })
                .to_vec(),
        };
        [Message::Warning(warning), Message::Logs(logs)]
    };
    for message in reports(2) {
        worker.say(message).await;
    }
    worker.acked(3).await;
    drop(worker);
    let mut again = Worker::join(&bench, "a", "a1", &[(&job.job_id, start.generation)]).await;
    for message in reports(2) {
        again.say(message).await;
    }
    again.acked(3).await;
    bench
        .push(&job.job_id, start.generation, 20, true)
        .await
        .unwrap();
    let feed = bench.feed(&job.job_id, 0).await;
    let warnings = events(&feed)
        .iter()
        .filter(|e| e.kind() == JobEventKind::Warning)
        .count();
    assert_eq!(warnings, 1);
    let request = StreamLogsRequest {
        job_id: job.job_id.clone(),
        after_cursor: 0,
        follow: true,
    };
    let mut lines = bench
        .jobs()
        .await
        .stream_logs(request)
        .await
        .unwrap()
        .into_inner();
    let mut found = Vec::new();
    while let Some(line) = lines.message().await.unwrap() {
        found.push((line.cursor, line.line));
    }
    assert_eq!(found, [(1, "one".to_owned()), (2, "two".to_owned())]);
}
