//! The last word of each rank, for the heartbeats.

use std::collections::BTreeMap;

use espalier_proto::v1::{self, RankProgress};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::ipc::{Activity, Progress};

/// A handle to the last words; clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pulse(watch::Sender<BTreeMap<(String, u64), Word>>);

#[derive(Clone, Copy, Debug)]
struct Word {
    progress: Progress,
    heard: Instant,
}

impl Pulse {
    /// A rank has spoken.
    pub(crate) fn heard(&self, job_id: &str, seat: u64, progress: Progress) {
        let heard = Instant::now();
        self.0.send_modify(|words| {
            words.insert((job_id.to_owned(), seat), Word { progress, heard });
        });
    }

    /// A rank will not speak any more.
    pub(crate) fn forget(&self, job_id: &str, seat: u64) {
        self.0.send_modify(|words| {
            words.remove(&(job_id.to_owned(), seat));
        });
    }

    /// All of them.
    pub(crate) fn ranks(&self) -> Vec<RankProgress> {
        let words = self.0.borrow();
        words
            .iter()
            .map(|((job_id, seat), word)| wire(job_id, *seat, word))
            .collect()
    }
}

fn wire(job_id: &str, seat: u64, word: &Word) -> RankProgress {
    let Progress {
        generation,
        step,
        operations,
        activity,
        for_ms,
        step_ms,
        work_ms,
    } = word.progress;
    let activity = match activity {
        Activity::Working => v1::Activity::Working,
        Activity::Waiting => v1::Activity::Waiting,
        Activity::Aside => v1::Activity::Aside,
    };
    RankProgress {
        job_id: job_id.to_owned(),
        generation,
        seat,
        step,
        operations,
        activity: activity.into(),
        for_ms,
        silent_ms: word.heard.elapsed().as_millis() as u64,
        step_ms,
        work_ms,
    }
}
