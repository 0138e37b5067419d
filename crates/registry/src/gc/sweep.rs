//! Tombstones, and the removal of what has had one for long enough.

use std::time::Duration;

use espalier_proto::v1::CollectGarbageResponse;
use espalier_store::{Op, Range, Txn};
use tokio_util::sync::CancellationToken;

use super::cycle::Cycle;
use crate::failpoint::reach;
use crate::records::{PUBLISHES, PublishRecord, Tombstone, decode, encode, tombstone_key};
use crate::service::RegistryService;
use crate::{Digest, RegistryError};

/// Time for which a repeated publish is answered as the first was: a week, in milliseconds.
const REPEATS_MS: i64 = 7 * 24 * 3600 * 1000;

/// Chunks removed while nobody else can pin or publish: some milliseconds.
pub(super) const BATCH: usize = 32;

impl Cycle {
    /// Goes over some of the chunks, (digest, bytes it takes); returns those that are due.
    pub(super) async fn sweep(
        &mut self,
        objects: &[(Digest, u64)],
    ) -> Result<Vec<Digest>, RegistryError> {
        let wall_ms = self.service.0.clock.wall_ms();
        let grace_ms = i64::try_from(self.service.0.options.grace.as_millis()).unwrap_or(i64::MAX);
        let mut ops = Vec::new();
        let mut due = Vec::new();
        for &(digest, bytes) in objects {
            self.report.chunks += 1;
            self.strays.remove(&digest);
            let needed = self.is_needed(&digest);
            match (needed, self.tombstones.get(&digest)) {
                (true, None) => {}
                (true, Some(_)) => ops.push(Op::delete(tombstone_key(digest))),
                (false, _) if self.dry_run => {
                    self.report.swept_chunks += 1;
                    self.report.swept_bytes += bytes;
                }
                (false, Some(tombstone))
                    if tombstone.epoch < self.epoch
                        && wall_ms.saturating_sub(tombstone.since_ms) >= grace_ms =>
                {
                    due.push(digest);
                }
                (false, Some(_)) => self.report.waiting_chunks += 1,
                (false, None) => {
                    self.report.waiting_chunks += 1;
                    let key = tombstone_key(digest);
                    let tombstone = Tombstone {
                        epoch: self.epoch,
                        since_ms: wall_ms,
                    };
                    ops.push(Op::put(&key, encode(&key, &tombstone)?));
                }
            }
        }
        if !self.dry_run {
            self.commit(ops).await?;
        }
        Ok(due)
    }

    fn is_needed(&self, digest: &Digest) -> bool {
        let now = self.service.0.clock.monotonic();
        self.marked.contains(digest)
            || self.service.fresh().contains(digest)
            || self.service.pins().is_pinned(now, digest)
    }

    /// Removes chunks that are due, unless they came to be needed since.
    pub(super) async fn remove(&mut self, batch: &[Digest]) -> Result<(), RegistryError> {
        let (gone, freed) = {
            let _gate = self.service.0.gate.write().await;
            let due = batch.iter().filter(|digest| !self.is_needed(digest));
            let due: Vec<Digest> = due.copied().collect();
            // The folder knows no fence: who has been replaced must not remove what the next leader counts on.
            self.service.0.leader.check().await?;
            let freed = self.service.0.blobs.delete(due.clone()).await?;
            (due, freed)
        };
        reach("chunks swept");
        self.report.swept_chunks += gone.len() as u64;
        self.report.swept_bytes += freed;
        let ops = gone
            .into_iter()
            .map(|digest| Op::delete(tombstone_key(digest)));
        self.commit(ops.collect()).await
    }

    /// Tombstones of chunks that are gone.
    pub(super) async fn forget_strays(&mut self) -> Result<(), RegistryError> {
        if self.dry_run {
            return Ok(());
        }
        let strays = std::mem::take(&mut self.strays);
        let ops = strays
            .into_iter()
            .map(|digest| Op::delete(tombstone_key(digest)));
        self.commit(ops.collect()).await
    }

    /// Forgets old answers to publishes, a page of them; returns where the next begins.
    pub(super) async fn forget_publishes(
        &self,
        after: Option<String>,
    ) -> Result<Option<String>, RegistryError> {
        if self.dry_run {
            return Ok(None);
        }
        let mut range = Range::prefix(PUBLISHES);
        if let Some(after) = after {
            range = range.after(after);
        }
        let page = self.service.store().range(range).await?;
        let wall_ms = self.service.0.clock.wall_ms();
        let mut ops = Vec::new();
        for entry in &page.entries {
            let record: PublishRecord = decode(entry)?;
            if wall_ms.saturating_sub(record.time_ms) > REPEATS_MS {
                ops.push(Op::delete(&entry.key));
            }
        }
        self.commit(ops).await?;
        let last = page.entries.last().map(|entry| entry.key.clone());
        Ok(last.filter(|_| page.more))
    }

    async fn commit(&self, ops: Vec<Op>) -> Result<(), RegistryError> {
        for ops in ops.chunks(self.service.store().limits().ops) {
            let txn = Txn {
                ops: ops.to_vec(),
                ..Txn::new()
            };
            self.service.0.leader.commit(txn).await?;
        }
        Ok(())
    }
}

impl RegistryService {
    /// Applies retention and removes garbage, or says what would be removed.
    pub(crate) async fn collect(
        &self,
        dry_run: bool,
    ) -> Result<CollectGarbageResponse, RegistryError> {
        let _one_at_a_time = self.0.collecting.lock().await;
        let options = self.0.options;
        let begun = self.0.clock.monotonic();
        let mut cycle = Cycle::new(self, dry_run);
        while !cycle.is_done() {
            let swept = cycle.step().await?;
            if self.0.clock.monotonic().saturating_sub(begun) > options.collect_limit {
                let mut report = cycle.into_report();
                report.cut_short = true;
                return Ok(report);
            }
            let pause = Duration::from_secs(swept) / options.sweep_rate.max(1);
            tokio::time::sleep(pause).await;
        }
        Ok(cycle.into_report())
    }

    /// Collects garbage now and then until `stop`. The caller joins it.
    pub async fn keep_clean(self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(self.0.options.collect_every) => {}
            }
            let collected = tokio::select! {
                // Cut off anywhere, a collection leaves nothing half done that the next would not mend.
                () = stop.cancelled() => return,
                collected = self.collect(false) => collected,
            };
            match collected {
                Ok(report) if report.retired_count + report.swept_chunks > 0 => tracing::info!(
                    checkpoints = report.retired_count,
                    chunks = report.swept_chunks,
                    bytes = report.swept_bytes,
                    "garbage collected"
                ),
                Ok(_) => {}
                Err(error) => tracing::error!(%error, "garbage could not be collected"),
            }
        }
    }
}
