//! Submitting, reading and listing.

use espalier_proto::v1::watch_job_response::Entry;
use espalier_proto::v1::{
    CancelJobRequest, GetJobRequest, JobEventKind, JobState, ListJobsRequest, StreamLogsRequest,
    WatchJobRequest,
};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::bench::{Bench, spec};

fn fields(status: &Status) -> Vec<String> {
    let details = status.get_details_bad_request().expect("a BadRequest");
    details
        .field_violations
        .into_iter()
        .map(|violation| violation.field)
        .collect()
}

#[tokio::test]
async fn a_submit_is_one_job_however_often_it_is_sent() {
    let bench = Bench::start().await;
    let first = bench.submit("r1", &spec(1, 1)).await.unwrap();
    let again = bench.submit("r1", &spec(1, 1)).await.unwrap();
    assert_eq!(first.job_id, again.job_id);
    let other = bench.submit("r1", &spec(1, 2)).await.unwrap_err();
    assert_eq!(other.code(), Code::AlreadyExists);
    let text = spec(1, 1);
    let (a, b) = tokio::join!(bench.submit("r2", &text), bench.submit("r2", &text));
    let (a, b) = (a.unwrap(), b.unwrap());
    assert_eq!(a.job_id, b.job_id);
    assert_ne!(a.job_id, first.job_id);
}

#[tokio::test]
async fn every_problem_of_a_job_file_is_named() {
    let bench = Bench::start().await;
    let bad = spec(3, 2)
        .replace("heads = 4", "headz = 4")
        .replace("global_batch = 64", "global_batch = 63");
    let refused = bench.submit("r1", &bad).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let named = fields(&refused);
    assert!(
        named.contains(&"spec_toml.model.headz".to_owned()),
        "{named:?}"
    );
    let relative = spec(1, 1).replace("/data/train", "data/train");
    let refused = bench.submit("r1", &relative).await.unwrap_err();
    assert_eq!(fields(&refused), ["spec_toml.data.train"]);
    for bad in ["name = ", ""] {
        let refused = bench.submit("r1", bad).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
    }
    // Nothing of it was kept.
    assert_eq!(
        bench.submit("r1", &spec(1, 1)).await.unwrap().job_id,
        "j00000001"
    );
}

#[tokio::test]
async fn request_ids_are_checked() {
    let bench = Bench::start().await;
    let long = "x".repeat(129);
    for bad in ["", "a b", "a/b", long.as_str()] {
        let refused = bench.submit(bad, &spec(1, 1)).await.unwrap_err();
        assert_eq!(fields(&refused), ["request_id"]);
    }
}

#[tokio::test]
async fn lists_come_in_pages_newest_first() {
    let bench = Bench::start().await;
    for n in 0..5 {
        bench.submit(&format!("r{n}"), &spec(1, 1)).await.unwrap();
    }
    let mut found = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListJobsRequest {
            page_size: 2,
            page_token,
        };
        let page = bench
            .jobs()
            .await
            .list_jobs(request)
            .await
            .unwrap()
            .into_inner();
        assert!(page.jobs.len() <= 2);
        found.extend(page.jobs.into_iter().map(|job| job.job_id));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(
        found,
        [
            "j00000005",
            "j00000004",
            "j00000003",
            "j00000002",
            "j00000001"
        ]
    );
    let request = ListJobsRequest {
        page_size: 2,
        page_token: "page 2".to_owned(),
    };
    let refused = bench.jobs().await.list_jobs(request).await.unwrap_err();
    assert_eq!(fields(&refused), ["page_token"]);
}

#[tokio::test]
async fn unknown_jobs_are_not_found() {
    let bench = Bench::start().await;
    let mut jobs = bench.jobs().await;
    for (id, code) in [
        ("", Code::InvalidArgument),
        ("j7", Code::NotFound),
        ("../x y", Code::NotFound),
    ] {
        let job_id = id.to_owned();
        let get = jobs
            .get_job(GetJobRequest {
                job_id: job_id.clone(),
            })
            .await
            .unwrap_err();
        assert_eq!(get.code(), code, "{id}");
        let watch = WatchJobRequest {
            job_id: job_id.clone(),
            after_cursor: 0,
        };
        assert_eq!(
            jobs.watch_job(watch).await.unwrap_err().code(),
            code,
            "{id}"
        );
        let logs = StreamLogsRequest {
            job_id,
            ..StreamLogsRequest::default()
        };
        assert_eq!(
            jobs.stream_logs(logs).await.unwrap_err().code(),
            code,
            "{id}"
        );
    }
}

#[tokio::test]
async fn a_waiting_job_says_what_it_waits_for() {
    let bench = Bench::start().await;
    let head = bench.submit("r1", &spec(2, 2)).await.unwrap();
    let tail = bench.submit("r2", &spec(1, 1)).await.unwrap();
    let reason = async |id: &str, wanted: &str| {
        loop {
            let job = bench.job(id).await;
            assert_eq!(job.state(), JobState::Queued);
            if job.reason == wanted {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    let waits = async {
        reason(
            &head.job_id,
            "waits for 2 cpu workers with 1 slot free; no cpu worker is open",
        )
        .await;
        reason(
            &tail.job_id,
            "waits for 1 cpu worker with 1 slot free; too few are open",
        )
        .await;
    };
    tokio::time::timeout(crate::bench::PATIENCE, waits)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn submits_that_come_at_once_are_each_one_job_and_the_same_for_the_same_request() {
    let bench = std::sync::Arc::new(Bench::start().await);
    let mut submits = tokio::task::JoinSet::new();
    for i in 0..200 {
        let bench = bench.clone();
        submits.spawn(async move {
            let request_id = format!("r{}", i % 50);
            let job = bench.submit(&request_id, &spec(1, 1)).await.unwrap();
            (request_id, job.job_id)
        });
    }
    let answers = submits.join_all().await;
    let distinct: std::collections::BTreeSet<_> = answers.into_iter().collect();
    assert_eq!(distinct.len(), 50, "{distinct:?}");
    let jobs: std::collections::BTreeSet<_> = distinct.iter().map(|(_, job)| job).collect();
    assert_eq!(jobs.len(), 50, "{distinct:?}");
    for job in jobs {
        assert_eq!(bench.job(job).await.state(), JobState::Queued);
        let cancel = CancelJobRequest {
            job_id: job.clone(),
            reason: String::new(),
        };
        bench.jobs().await.cancel_job(cancel).await.unwrap();
        let feed = bench.feed(job, 0).await;
        let cursors: Vec<u64> = feed.iter().map(|(cursor, _)| *cursor).collect();
        assert_eq!(cursors, (1..=feed.len() as u64).collect::<Vec<_>>());
        let Entry::Event(first) = &feed[0].1 else {
            panic!("{feed:?}");
        };
        assert_eq!(first.kind(), JobEventKind::Submitted);
    }
}
