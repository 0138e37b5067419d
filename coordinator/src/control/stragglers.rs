//! Keeps what ranks last said of themselves, and tells of those that are slow.

use std::collections::BTreeMap;

use espalier_job::Straggler;
use espalier_proto::v1::RankProgress;
use tracing::warn;

use super::Control;
use crate::clock::Millis;
use crate::error::Error;
use crate::job::JobId;
use crate::stalls::{self, SLOW_FOR, Word};

impl Control {
    /// Words of another generation than the present one say nothing of its ranks, but whether a survivor of
    /// it still speaks.
    pub(super) fn progress(&mut self, worker: &str, ranks: &[RankProgress]) {
        let now = self.now();
        for progress in ranks {
            let id = JobId::new(&progress.job_id);
            let Some(tracked) = self.jobs.get_mut(&id) else {
                continue;
            };
            let gang = tracked.gang();
            let Some(rank) = gang.and_then(|gang| gang.rank_of(worker, progress.seat)) else {
                continue;
            };
            let word = Word::new(progress, now);
            if tracked.job.current(progress.generation).is_some() {
                tracked.words.insert(rank, word);
            } else if tracked.job.continues(progress.generation) {
                tracked.words.insert(rank, word.of_before());
            }
        }
    }

    /// Warns once of each rank of a gang that has been slow for long, and lets go of its worker if the job
    /// asks for that.
    pub(super) async fn tell_slow(&mut self, now: Millis, id: &JobId) -> Result<(), Error> {
        let Some(tracked) = self.jobs.get_mut(id) else {
            return Ok(());
        };
        let slow = stalls::slow(&tracked.words);
        tracked.slow.retain(|rank, _| slow.contains_key(rank));
        let mut due = BTreeMap::new();
        for (rank, text) in slow {
            let since = tracked.slow.entry(rank).or_insert(Some(now));
            if since.is_some_and(|at| now.since(at) > SLOW_FOR) {
                *since = None;
                due.insert(rank, text);
            }
        }
        for (rank, text) in due {
            warn!(job = %id, rank, text, "a rank is slow");
            let slow = self
                .edit(id, |edit| {
                    let worker = edit.gang().and_then(|gang| {
                        let mut ranks = gang.ranks();
                        let found = ranks.find(|(known, ..)| *known == rank)?;
                        Some(found.1.worker_id.clone())
                    });
                    if let Some(worker) = &worker {
                        edit.warn(&format!("rank {rank} of worker {worker} {text}"));
                    }
                    Ok(worker.filter(|_| edit.record.demand.straggler == Straggler::Replace))
                })
                .await?;
            if let (Some(worker), Some(tracked)) = (slow, self.jobs.get_mut(id)) {
                tracked.lets_go(&worker, &text, now);
            }
        }
        Ok(())
    }
}
