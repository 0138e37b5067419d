//! Takes a worker's reports into the store, each once however often it is sent: the number of the
//! last one stored is written in the same transaction.

use std::collections::BTreeMap;

use espalier_proto::v1::session_request::Message;
use espalier_proto::v1::watch_job_response::Entry as FeedEntry;
use espalier_proto::v1::{JobEvent, JobEventKind, LogReport, StreamLogsResponse};
use espalier_store::{Compare, Entry, Leader, Limits, Op, Outcome, Txn};
use serde::{Deserialize, Serialize};

use crate::clock::wall;
use crate::codec::{decode, encode};
use crate::control::{ATTEMPTS, Handle, cut};
use crate::error::Error;
use crate::job::{JobId, Snapshot};
use crate::{feed, keys, logs};

/// The intake of one session.
pub(crate) struct Reports {
    leader: Leader,
    control: Handle,
    worker_id: String,
    incarnation: String,
    /// Number of the last report taken.
    taken: u64,
    pending: Pending,
}

/// Reports that are to be stored together.
#[derive(Default)]
struct Pending {
    feeds: BTreeMap<JobId, Vec<(u64, FeedEntry)>>,
    logs: BTreeMap<JobId, Vec<StreamLogsResponse>>,
    /// Jobs whose last step was measured, and by which generation.
    trained: Vec<(JobId, u64)>,
    /// Feed entries in all, and bytes of log lines in all.
    entries: usize,
    bytes: usize,
}

/// The last report of a worker's process that is stored.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Acknowledged {
    incarnation: String,
    sequence: u64,
}

impl Reports {
    /// The intake of a worker's process, after what is stored of it.
    pub(crate) async fn open(
        leader: Leader,
        control: Handle,
        worker_id: String,
        incarnation: String,
    ) -> Result<Self, Error> {
        let entry = leader.store().get(&keys::acknowledged(&worker_id)).await?;
        let stored: Option<Acknowledged> = entry.as_ref().map(decode).transpose()?;
        let taken = stored
            .filter(|last| last.incarnation == incarnation)
            .map_or(0, |last| last.sequence);
        Ok(Self {
            leader,
            control,
            worker_id,
            incarnation,
            taken,
            pending: Pending::default(),
        })
    }

    /// Takes reports in their order; answers the number up to which all is stored, if there is news.
    pub(crate) async fn take(&mut self, batch: Vec<Message>) -> Result<Option<u64>, Error> {
        let mut numbered = false;
        for message in batch {
            if let Some(sequence) = sequence(&message) {
                numbered = true;
                if sequence <= self.taken {
                    continue;
                }
                // What the loop is told of must find the earlier metrics stored, for it may end the job. It
                // is not among what is acknowledged with them: the loop may never come to it.
                if is_for_loop(&message) || self.pending.is_full(self.leader.store().limits()) {
                    self.flush().await?;
                }
                self.taken = sequence;
            }
            match message {
                Message::Metrics(report) => self.pending.metrics(report),
                Message::Warning(report) => self.pending.warning(report),
                Message::Logs(report) => self.pending.logs(report),
                Message::RankReport(report) => {
                    self.control.report(self.worker_id.clone(), report).await?;
                }
                Message::Recovery(report) => {
                    let worker = self.worker_id.clone();
                    self.control.recovered(worker, report).await?;
                }
                Message::RendezvousReady(ready) => {
                    self.control
                        .rendezvous(self.worker_id.clone(), ready)
                        .await?;
                }
                Message::Heartbeat(_) | Message::Register(_) => {}
            }
        }
        self.flush().await?;
        Ok(numbered.then_some(self.taken))
    }

    async fn flush(&mut self) -> Result<(), Error> {
        let pending = std::mem::take(&mut self.pending);
        if pending.feeds.is_empty() && pending.logs.is_empty() {
            return Ok(());
        }
        self.store(&pending).await?;
        for (job, generation) in pending.trained {
            match self.control.trained(job, generation).await {
                Ok(()) | Err(Error::NoSuchJob(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn store(&self, pending: &Pending) -> Result<(), Error> {
        let key = keys::acknowledged(&self.worker_id);
        for _ in 0..ATTEMPTS {
            let acknowledged = self.leader.store().get(&key).await?;
            let mut txn = self.acknowledge(&key, acknowledged.as_ref());
            for (job, entries) in &pending.feeds {
                // The cursor first: an event that ends the gang after this read takes the cursor away.
                let first = feed::next_cursor(self.leader.store(), job).await?;
                let Some(snapshot) = Snapshot::load(self.leader.store(), job).await? else {
                    continue;
                };
                let current = entries
                    .iter()
                    .filter(|(generation, _)| snapshot.continues(*generation))
                    .map(|(_, entry)| stamp(entry.clone(), &snapshot));
                let (compares, ops) = feed::append(job, first, wall(), current);
                txn.compares.extend(compares);
                txn.ops.extend(ops);
            }
            for (job, lines) in &pending.logs {
                let Some(snapshot) = Snapshot::load(self.leader.store(), job).await? else {
                    continue;
                };
                let known = |line: &&StreamLogsResponse| line.generation <= snapshot.generation();
                let lines: Vec<_> = lines.iter().filter(known).cloned().collect();
                let (compares, ops) =
                    logs::append(self.leader.store(), job, lines, logs::BOUND).await?;
                txn.compares.extend(compares);
                txn.ops.extend(ops);
            }
            if let Outcome::Committed(_) = self.leader.commit(txn).await? {
                return Ok(());
            }
        }
        Err(Error::Contended {
            what: "the jobs' feeds".to_owned(),
        })
    }

    fn acknowledge(&self, key: &str, before: Option<&Entry>) -> Txn {
        let value = Acknowledged {
            incarnation: self.incarnation.clone(),
            sequence: self.taken,
        };
        Txn::new()
            .when(Compare::unchanged(key, before))
            .then(Op::put(key, encode(&value)))
    }
}

impl Pending {
    /// Another report might not fit into one transaction with these.
    fn is_full(&self, limits: Limits) -> bool {
        self.entries >= limits.ops / 2 || self.bytes >= limits.bytes / 4
    }

    fn metrics(&mut self, report: espalier_proto::v1::MetricsReport) {
        let Some(metrics) = report.metrics else {
            return;
        };
        let job = JobId::new(report.job_id);
        if metrics.step == metrics.total_steps && metrics.step > 0 {
            self.trained.push((job.clone(), metrics.generation));
        }
        self.feed(job, metrics.generation, FeedEntry::Metrics(metrics));
    }

    fn warning(&mut self, report: espalier_proto::v1::WarningReport) {
        let event = JobEvent {
            kind: JobEventKind::Warning.into(),
            generation: report.generation,
            reason: cut(&report.reason).to_owned(),
            ..JobEvent::default()
        };
        self.feed(
            JobId::new(report.job_id),
            report.generation,
            FeedEntry::Event(event),
        );
    }

    fn feed(&mut self, job: JobId, generation: u64, entry: FeedEntry) {
        if job.is_well_formed() {
            self.entries += 1;
            self.feeds.entry(job).or_default().push((generation, entry));
        }
    }

    fn logs(&mut self, report: LogReport) {
        let job = JobId::new(report.job_id);
        if !job.is_well_formed() {
            return;
        }
        self.bytes += report.lines.iter().map(|l| l.text.len()).sum::<usize>();
        let lines = report.lines.into_iter().map(|line| StreamLogsResponse {
            cursor: 0,
            time: line.time,
            generation: report.generation,
            rank: report.rank,
            line: line.text,
        });
        self.logs.entry(job).or_default().extend(lines);
    }
}

/// A warning tells the state in which it came.
fn stamp(mut entry: FeedEntry, job: &Snapshot) -> FeedEntry {
    if let FeedEntry::Event(event) = &mut entry {
        event.set_state(job.record.state.wire());
    }
    entry
}

fn is_for_loop(message: &Message) -> bool {
    matches!(message, Message::RankReport(_) | Message::Recovery(_))
}

fn sequence(message: &Message) -> Option<u64> {
    match message {
        Message::RankReport(report) => Some(report.sequence),
        Message::Metrics(report) => Some(report.sequence),
        Message::Logs(report) => Some(report.sequence),
        Message::Warning(report) => Some(report.sequence),
        Message::Recovery(report) => Some(report.sequence),
        Message::Register(_) | Message::Heartbeat(_) | Message::RendezvousReady(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use espalier_proto::v1::{MetricsReport, RankReport, StepMetrics};
    use espalier_store::{Options, Store};

    use super::*;
    use crate::clock::Clock;
    use crate::control::Control;
    use crate::membership::Limits;

    const LIMITS: Limits = Limits {
        lease_ttl: Duration::from_secs(5),
        start: Duration::from_secs(5),
        infrastructure_restarts: 1,
        recoveries: 1,
        hold: Duration::from_secs(5),
        leave: Duration::from_secs(5),
    };

    #[tokio::test]
    async fn a_report_that_the_loop_did_not_come_to_is_not_acknowledged() {
        let store = Store::in_memory(Options::default()).await.unwrap();
        let leader = store.campaign("a").await.unwrap();
        let loaded = Control::load(leader.clone(), Clock::start(), LIMITS).await;
        let (control, handle) = loaded.unwrap();
        let mut reports = Reports::open(leader, handle, "w".to_owned(), "i".to_owned())
            .await
            .unwrap();
        drop(control);
        let job_id = JobId::numbered(1).to_string();
        let metrics = MetricsReport {
            sequence: 1,
            job_id: job_id.clone(),
            metrics: Some(StepMetrics::default()),
        };
        let rank = RankReport {
            sequence: 2,
            job_id,
            ..RankReport::default()
        };
        let batch = vec![Message::Metrics(metrics), Message::RankReport(rank)];
        let error = reports.take(batch).await.unwrap_err();
        assert!(matches!(error, Error::Stopping), "{error}");
        let stored = store.get(&keys::acknowledged("w")).await.unwrap().unwrap();
        let stored: Acknowledged = decode(&stored).unwrap();
        assert_eq!(stored.sequence, 1);
    }
}
