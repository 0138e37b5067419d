//! Notices errors that NCCL's own threads run into while nobody waits.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::comm::Comm;
use crate::error::{CollectiveError, Operation};

/// Time between two looks.
const PERIOD: Duration = Duration::from_millis(100);

/// The thread that polls a communicator, which aborts itself on an error. Joined on drop.
#[derive(Debug)]
pub(super) struct Watchdog {
    stop: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    pub(super) fn start(comm: Arc<Comm>, rank: u32) -> Result<Self, CollectiveError> {
        let (stop, stopped) = sync_channel(0);
        let thread = thread::Builder::new()
            .name("nccl watchdog".to_owned())
            .spawn(move || {
                while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(PERIOD) {
                    if let Err(error) = comm.poll(Operation::Watch) {
                        tracing::warn!(rank, %error, "the group failed");
                        return;
                    }
                }
            })
            .map_err(|error| CollectiveError::Engine {
                operation: Operation::Connect,
                rank,
                reason: format!("could not start the watchdog: {error}"),
            })?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}
