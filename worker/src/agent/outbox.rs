//! Reports on their way to the coordinator: numbered, kept until acknowledged, bounded.
//!
//! Reports of ranks and warnings are never given up. Metrics and log lines are, oldest first, when
//! together they exceed the limit; each gang then has one notice that counts what is gone, in the
//! place of the last report it lost.

use std::collections::{BTreeMap, BTreeSet};

use espalier_proto::v1::session_request::Message;
use espalier_proto::v1::{LogLine, LogReport, RendezvousReady};

use super::key::GangKey;
use super::report::Report;

/// The reports of this process that are not acknowledged.
#[derive(Debug)]
pub(crate) struct Outbox {
    limit: usize,
    droppable: usize,
    last_sequence: u64,
    open: BTreeSet<GangKey>,
    entries: BTreeMap<u64, Entry>,
    announcements: BTreeMap<GangKey, String>,
}

#[derive(Debug)]
struct Entry {
    gang: GangKey,
    body: Body,
}

#[derive(Debug)]
enum Body {
    Report(Report),
    Dropped(Dropped),
}

/// What a gang lost.
#[derive(Clone, Copy, Debug, Default)]
struct Dropped {
    rank: u32,
    lines: u64,
    metrics: u64,
}

impl Outbox {
    /// An empty outbox that keeps at most `limit` bytes of metrics and log lines.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit,
            droppable: 0,
            last_sequence: 0,
            open: BTreeSet::new(),
            entries: BTreeMap::new(),
            announcements: BTreeMap::new(),
        }
    }

    /// Lets a gang report.
    pub(crate) fn open(&mut self, gang: GangKey) {
        self.open.insert(gang);
    }

    /// The gang has ended: what it reported stays, nothing is added.
    pub(crate) fn finish(&mut self, gang: &GangKey) {
        self.open.remove(gang);
        self.announcements.remove(gang);
    }

    /// The gang was revoked: nothing more of it or of its job's earlier ones leaves this worker but their
    /// log lines, which often tell why.
    pub(crate) fn retract(&mut self, gang: &GangKey) {
        let ends =
            |known: &GangKey| known.job_id == gang.job_id && known.generation <= gang.generation;
        self.open.retain(|known| !ends(known));
        self.announcements.retain(|known, _| !ends(known));
        let mut freed = 0;
        self.entries.retain(|_, entry| {
            let stays = !ends(&entry.gang) || entry.is_log();
            freed += if stays { 0 } else { entry.weight() };
            stays
        });
        self.droppable -= freed;
    }

    /// Adds a report; one of a gang that is not open is refused. Tells whether it was taken.
    pub(crate) fn push(&mut self, gang: &GangKey, report: Report) -> bool {
        if !self.open.contains(gang) {
            return false;
        }
        self.last_sequence += 1;
        let entry = Entry {
            gang: gang.clone(),
            body: Body::Report(report),
        };
        self.droppable += entry.weight();
        self.entries.insert(self.last_sequence, entry);
        while self.droppable > self.limit && self.drop_oldest() {}
        true
    }

    /// Rank 0 of the gang listens at this address: told at the start of each session until
    /// [`Outbox::settle`].
    pub(crate) fn announce(&mut self, gang: &GangKey, address: String) {
        if self.open.contains(gang) {
            self.announcements.insert(gang.clone(), address);
        }
    }

    /// The gang's ranks have met.
    pub(crate) fn settle(&mut self, gang: &GangKey) {
        self.announcements.remove(gang);
    }

    /// Gangs whose rank 0 waits for its peers.
    pub(crate) fn announcements(&self) -> impl Iterator<Item = (&GangKey, Message)> {
        self.announcements.iter().map(|(gang, address)| {
            let ready = RendezvousReady {
                job_id: gang.job_id.clone(),
                generation: gang.generation,
                address: address.clone(),
            };
            (gang, Message::RendezvousReady(ready))
        })
    }

    /// The first report after `sequence`, and its number.
    pub(crate) fn next_after(&self, sequence: u64) -> Option<(u64, Message)> {
        let (&number, entry) = self.entries.range(sequence + 1..).next()?;
        Some((number, entry.message(number)))
    }

    /// The coordinator has stored everything up to `sequence`.
    pub(crate) fn acknowledge(&mut self, sequence: u64) {
        let kept = self.entries.split_off(&sequence.saturating_add(1));
        let done = std::mem::replace(&mut self.entries, kept);
        self.droppable -= done.values().map(Entry::weight).sum::<usize>();
    }

    /// Whether everything was acknowledged.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Gangs with reports that are not acknowledged.
    pub(crate) fn unacknowledged(&self) -> BTreeSet<GangKey> {
        self.entries
            .values()
            .map(|entry| entry.gang.clone())
            .collect()
    }

    /// Gives up the oldest droppable report; false when there is none.
    fn drop_oldest(&mut self) -> bool {
        let oldest = self.entries.iter().find(|(_, entry)| entry.weight() > 0);
        let Some(sequence) = oldest.map(|(&sequence, _)| sequence) else {
            return false;
        };
        let Some(entry) = self.entries.remove(&sequence) else {
            return false;
        };
        self.droppable -= entry.weight();
        let mut dropped = self.take_notice(&entry.gang);
        dropped.count(&entry.body);
        self.entries.insert(
            sequence,
            Entry {
                gang: entry.gang,
                body: Body::Dropped(dropped),
            },
        );
        true
    }

    fn take_notice(&mut self, gang: &GangKey) -> Dropped {
        let notice = self
            .entries
            .iter()
            .find_map(|(&sequence, entry)| match entry.body {
                Body::Dropped(dropped) if entry.gang == *gang => Some((sequence, dropped)),
                _ => None,
            });
        let Some((sequence, dropped)) = notice else {
            return Dropped::default();
        };
        self.entries.remove(&sequence);
        dropped
    }
}

impl Entry {
    /// Bytes that count toward the limit.
    fn weight(&self) -> usize {
        match &self.body {
            Body::Report(report) if report.droppable() => report.weight(),
            Body::Report(_) | Body::Dropped(_) => 0,
        }
    }

    fn is_log(&self) -> bool {
        matches!(
            self.body,
            Body::Report(Report::Logs { .. }) | Body::Dropped(_)
        )
    }

    fn message(&self, sequence: u64) -> Message {
        match &self.body {
            Body::Report(report) => report.message(sequence, &self.gang),
            Body::Dropped(dropped) => Message::Logs(LogReport {
                sequence,
                job_id: self.gang.job_id.clone(),
                generation: self.gang.generation,
                rank: dropped.rank,
                lines: vec![LogLine {
                    time: None,
                    text: dropped.text(),
                }],
            }),
        }
    }
}

impl Dropped {
    fn count(&mut self, body: &Body) {
        match body {
            Body::Report(Report::Logs { rank, lines }) => {
                self.rank = *rank;
                self.lines += lines.len() as u64;
            }
            Body::Report(Report::Metrics(_)) => self.metrics += 1,
            Body::Report(Report::Rank { .. } | Report::Warning { .. } | Report::Recovered(_))
            | Body::Dropped(_) => {}
        }
    }

    fn text(&self) -> String {
        format!(
            "[worker] {} log lines and {} metrics records were dropped while the coordinator was away",
            self.lines, self.metrics
        )
    }
}

#[cfg(test)]
#[path = "outbox_tests.rs"]
mod tests;
