use std::collections::BTreeMap;
use std::time::Duration;

use espalier_proto::v1::job_service_client::JobServiceClient;
use espalier_proto::v1::watch_job_response::Entry;
use espalier_proto::v1::{JobEvent, JobEventKind, Recovery, StepMetrics, WatchJobRequest};

use crate::cluster::PATIENCE;

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
    #[track_caller]
    pub fn read(endpoint: &str, job_id: &str) -> Self {
        Self::until(endpoint, job_id, Duration::from_secs(30), |_| false)
    }

    /// Follows the feed of a job until one of its steps has been measured that is not before `step`,
    /// or the job has ended.
    #[track_caller]
    pub fn to_step(endpoint: &str, job_id: &str, step: u64) -> Self {
        Self::until(endpoint, job_id, PATIENCE, |feed| {
            feed.metrics.last().is_some_and(|last| last.step >= step)
        })
    }

    /// Follows the feed of a job until so many recoveries are complete, or the job has ended.
    #[track_caller]
    pub fn to_recovery(endpoint: &str, job_id: &str, count: usize) -> Self {
        Self::until(endpoint, job_id, PATIENCE, |feed| {
            feed.recoveries().len() >= count
        })
    }

    /// Follows the feed until it holds enough, or ends.
    #[track_caller]
    fn until(
        endpoint: &str,
        job_id: &str,
        patience: Duration,
        enough: impl Fn(&Self) -> bool,
    ) -> Self {
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
            while !enough(&feed)
                && let Some(item) = stream.message().await.unwrap()
            {
                match item.entry {
                    Some(Entry::Event(event)) => feed.events.push(event),
                    Some(Entry::Metrics(metrics)) => feed.metrics.push(metrics),
                    None => panic!("an entry of an unknown kind at cursor {}", item.cursor),
                }
            }
            feed
        };
        runtime.block_on(async {
            tokio::time::timeout(patience, reading)
                .await
                .unwrap_or_else(|_| panic!("the feed of {job_id} stands still"))
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
        self.by_step().map(|m| m.loss).collect()
    }

    /// Bits of everything measured of each step that does not depend on the clock, by its last record.
    pub fn bits(&self) -> Vec<Vec<u64>> {
        let bits = |m: &StepMetrics| {
            let figures = [
                m.loss,
                m.cross_entropy,
                m.distillation,
                m.resource,
                m.accuracy,
                m.macs_soft,
                m.macs_hard,
                m.lr,
                m.grad_norm,
            ];
            let all = figures.iter().chain(&m.gate_rates);
            all.map(|figure| figure.to_bits()).collect()
        };
        self.by_step().map(bits).collect()
    }

    /// Asserts that no step was measured again after a later one: nothing went back to a checkpoint.
    #[track_caller]
    pub fn assert_never_back(&self) {
        for pair in self.metrics.windows(2) {
            assert!(
                pair[1].step >= pair[0].step,
                "step {} of generation {} came after step {}",
                pair[1].step,
                pair[1].generation,
                pair[0].step
            );
        }
    }

    /// The recoveries in memory, in order, each with its sentence.
    pub fn recoveries(&self) -> Vec<(Recovery, String)> {
        let recovered = |event: &JobEvent| Some((event.recovery.clone()?, event.reason.clone()));
        self.events.iter().filter_map(recovered).collect()
    }

    /// What happened, in words.
    pub fn story(&self) -> Vec<&str> {
        self.events.iter().map(|e| e.reason.as_str()).collect()
    }

    fn by_step(&self) -> impl Iterator<Item = &StepMetrics> {
        let last: BTreeMap<u64, &StepMetrics> = self.metrics.iter().map(|m| (m.step, m)).collect();
        last.into_values()
    }
}
