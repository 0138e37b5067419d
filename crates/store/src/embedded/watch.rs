use std::collections::VecDeque;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::watch;

use super::reads::{self, LogRead};
use super::shared::Shared;
use crate::watch::WatchSource;
use crate::{Changes, Revision, StoreError};

/// A reader of the change log that sleeps until there is more of it.
pub(super) struct LogWatch {
    shared: Arc<Shared>,
    latest: watch::Receiver<Revision>,
    prefix: String,
    /// First revision not yet looked at.
    from: Revision,
    /// Read, not yet given out; at most one batch of the log.
    ready: VecDeque<Changes>,
}

impl LogWatch {
    pub(super) fn new(shared: Arc<Shared>, prefix: String, from: Revision) -> Self {
        let latest = shared.latest.clone();
        Self {
            shared,
            latest,
            prefix,
            from,
            ready: VecDeque::new(),
        }
    }
}

#[async_trait]
impl WatchSource for LogWatch {
    async fn next(&mut self) -> Result<Changes, StoreError> {
        loop {
            if let Some(changes) = self.ready.pop_front() {
                return Ok(changes);
            }
            // Seen before the log is read: what commits during the read wakes the next wait.
            let latest = *self.latest.borrow_and_update();
            if latest < self.from {
                self.latest
                    .changed()
                    .await
                    .map_err(|_| StoreError::Closed)?;
                continue;
            }
            let (prefix, from) = (self.prefix.clone(), self.from);
            let read = self
                .shared
                .read(move |txn| reads::log(txn, &prefix, from))
                .await?;
            match read {
                LogRead::Compacted { oldest } => return Err(StoreError::Compacted { oldest }),
                LogRead::Found(found, next) => {
                    self.ready = found.into();
                    self.from = next;
                }
            }
        }
    }
}
