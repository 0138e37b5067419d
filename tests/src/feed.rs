use std::time::Duration;

use espalier_proto::v1::job_service_client::JobServiceClient;
use espalier_proto::v1::watch_job_response::Entry;
use espalier_proto::v1::{JobEvent, JobEventKind, StepMetrics, WatchJobRequest};

/// Everything a job's feed holds.
#[derive(Debug, Default)]
pub struct Feed {
    /// Events, in order.
    pub events: Vec<JobEvent>,
    /// Metrics, in order.
    pub metrics: Vec<StepMetrics>,
}

impl Feed {
    /// Reads the feed of a job that has ended.
    pub fn read(endpoint: &str, job_id: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let reading = async {
            let mut client = JobServiceClient::connect(endpoint.to_owned())
                .await
                .unwrap();
            let request = WatchJobRequest {
                job_id: job_id.to_owned(),
                after_cursor: 0,
            };
            let mut stream = client.watch_job(request).await.unwrap().into_inner();
            let mut feed = Self::default();
            while let Some(item) = stream.message().await.unwrap() {
                match item.entry {
                    Some(Entry::Event(event)) => feed.events.push(event),
                    Some(Entry::Metrics(metrics)) => feed.metrics.push(metrics),
                    None => panic!("an entry of an unknown kind at cursor {}", item.cursor),
                }
            }
            feed
        };
        runtime.block_on(async {
            tokio::time::timeout(Duration::from_secs(30), reading)
                .await
                .expect("the feed of a job that has ended ends")
        })
    }

    /// The ranges of steps that became durable, in order.
    pub fn ledger(&self) -> Vec<(u64, u64)> {
        self.events
            .iter()
            .filter(|event| event.kind() == JobEventKind::StepsCommitted)
            .map(|event| (event.first_step, event.last_step))
            .collect()
    }

    /// Asserts that each step of 1..=`total` was committed once.
    #[track_caller]
    pub fn assert_ledger(&self, total: u64) {
        let ledger = self.ledger();
        let mut next = 1;
        for &(first, last) in &ledger {
            assert!(
                first == next && last >= first,
                "the ledger has a gap or repeats: {ledger:?}"
            );
            next = last + 1;
        }
        assert_eq!(next, total + 1, "the ledger ends early: {ledger:?}");
    }

    /// The loss of each step, by its last record.
    pub fn losses(&self) -> Vec<f64> {
        let by_step: std::collections::BTreeMap<u64, f64> =
            self.metrics.iter().map(|m| (m.step, m.loss)).collect();
        by_step.into_values().collect()
    }
}
