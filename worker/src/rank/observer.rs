//! What rank 0 tells the world while it trains.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use super::{error::TrainError, link::Link};
use crate::ipc::{CheckpointKind, FromRank, Metrics};

/// How long a checkpoint may take from its hand-over until it is durable. The agent tries as long
/// while the coordinator is away.
pub(super) const STORED_DEADLINE: Duration = Duration::from_secs(600);

/// Takes what rank 0 has to tell.
pub trait Observer {
    /// Measurements of a step.
    ///
    /// # Errors
    /// Nobody listens any more.
    fn metrics(&mut self, metrics: Metrics) -> Result<(), TrainError>;

    /// Something people should know.
    ///
    /// # Errors
    /// Nobody listens any more.
    fn warning(&mut self, reason: String) -> Result<(), TrainError>;

    /// Takes over a finished checkpoint folder. Blocks while an earlier one is not yet durable.
    ///
    /// # Errors
    /// Nobody listens any more, or the earlier checkpoint did not become durable.
    fn checkpoint(
        &mut self,
        step: u64,
        dir: PathBuf,
        kind: CheckpointKind,
    ) -> Result<(), TrainError>;

    /// Folder for checkpoints on their way.
    fn folder(&self) -> &Path;
}

/// Tells the agent.
#[derive(Debug)]
pub struct AgentObserver<'a> {
    link: &'a Link,
    run_dir: &'a Path,
    /// Step of the checkpoint that was handed over and is not known to be durable.
    in_flight: Option<u64>,
}

impl<'a> AgentObserver<'a> {
    /// With checkpoints made in `run_dir`.
    pub fn new(link: &'a Link, run_dir: &'a Path) -> Self {
        Self {
            link,
            run_dir,
            in_flight: None,
        }
    }

    /// Blocks until what was handed over is durable.
    ///
    /// # Errors
    /// The agent did not say so in time.
    pub fn settle(&mut self) -> Result<(), TrainError> {
        if let Some(step) = self.in_flight.take() {
            self.link.wait_stored(step, STORED_DEADLINE)?;
        }
        Ok(())
    }
}

impl Observer for AgentObserver<'_> {
    fn metrics(&mut self, metrics: Metrics) -> Result<(), TrainError> {
        Ok(self.link.send(&FromRank::Metrics(metrics))?)
    }

    fn warning(&mut self, reason: String) -> Result<(), TrainError> {
        Ok(self.link.send(&FromRank::Warning { reason })?)
    }

    fn checkpoint(
        &mut self,
        step: u64,
        dir: PathBuf,
        kind: CheckpointKind,
    ) -> Result<(), TrainError> {
        self.settle()?;
        self.link.send(&FromRank::Checkpoint { step, dir, kind })?;
        self.in_flight = Some(step);
        Ok(())
    }

    fn folder(&self) -> &Path {
        self.run_dir
    }
}
