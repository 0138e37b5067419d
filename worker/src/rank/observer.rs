//! What rank 0 tells the world while it trains.

use std::{
    any::Any,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{GROUP_DEADLINE, error::TrainError, link::Link, progress::Progress};
use crate::ipc::{CheckpointKind, FromRank, Group, Metrics, Recovered};

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

    /// A step is done, of which this rank had so many micro-batches; on every rank.
    ///
    /// # Errors
    /// Nobody listens any more.
    fn stepped(&mut self, _step: u64, _micro_batches: usize) -> Result<(), TrainError> {
        Ok(())
    }

    /// The rank is about to do what it alone does; it is done when the guard is dropped.
    fn aside(&self) -> Box<dyn Any> {
        Box::new(())
    }

    /// Another group waits: this one is left before the next step.
    fn leaves(&self) -> bool {
        false
    }

    /// The gang is about to leave: rank 0 makes durable what was done instead of the next step.
    fn halts(&self) -> bool {
        false
    }

    /// Whether a checkpoint of this step is durable, or handed over.
    fn keeps(&self, _step: u64) -> bool {
        false
    }

    /// All that was done is handed over; blocks until there is another group.
    ///
    /// # Errors
    /// It did not become durable, or no other group came and nobody ended the process.
    fn halted(&mut self) -> Result<(), TrainError> {
        Ok(())
    }
}

/// Tells the agent.
#[derive(Debug)]
pub(super) struct AgentObserver<'a> {
    link: &'a Link,
    run_dir: &'a Path,
    progress: Progress,
    /// Generation of the group.
    generation: u64,
    /// Last step that is known to be durable.
    durable: u64,
    /// Step of the checkpoint that was handed over and is not known to be durable.
    in_flight: Option<u64>,
    /// Step that was measured last.
    measured: u64,
    /// To be told with the first step of the group, and when the rank was ready for it.
    recovered: Option<(Recovered, Instant)>,
}

impl<'a> AgentObserver<'a> {
    /// With checkpoints made in `run_dir`.
    pub(super) fn new(link: &'a Link, run_dir: &'a Path, progress: Progress) -> Self {
        Self {
            link,
            run_dir,
            progress,
            generation: 0,
            durable: 0,
            in_flight: None,
            measured: 0,
            recovered: None,
        }
    }

    /// The rank is in this group from now on.
    pub(super) fn joins(&mut self, group: &Group) {
        self.generation = group.generation;
        self.durable = group.committed_step.max(self.durable);
    }

    /// The next step is the first after a recovery.
    pub(super) fn recovers(&mut self, recovered: Recovered) {
        self.recovered = Some((recovered, Instant::now()));
    }

    /// The group has ended before its first step.
    pub(super) fn parts(&mut self) {
        self.recovered = None;
    }

    /// Whether this rank has told the measurements of a step.
    pub(super) fn has_told(&self, step: u64) -> bool {
        self.measured >= step
    }

    /// Whether this rank has handed over a checkpoint of a step that may not be durable yet.
    pub(super) fn has_handed_over(&self, step: u64) -> bool {
        self.in_flight == Some(step)
    }

    /// Blocks until what was handed over is durable.
    ///
    /// # Errors
    /// The agent did not say so in time.
    pub(super) fn settle(&mut self) -> Result<(), TrainError> {
        if let Some(step) = self.in_flight.take() {
            self.link.wait_stored(step, STORED_DEADLINE)?;
            self.durable = step.max(self.durable);
        }
        Ok(())
    }
}

impl Observer for AgentObserver<'_> {
    fn metrics(&mut self, metrics: Metrics) -> Result<(), TrainError> {
        self.measured = metrics.step;
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

    fn aside(&self) -> Box<dyn Any> {
        Box::new(self.progress.aside())
    }

    fn stepped(&mut self, step: u64, micro_batches: usize) -> Result<(), TrainError> {
        self.progress.stepped(step, micro_batches);
        if let Some((recovered, since)) = self.recovered.take() {
            let step_ms = since.elapsed().as_millis() as u64;
            self.link.send(&FromRank::Recovered(Recovered {
                step_ms,
                ..recovered
            }))?;
        }
        Ok(())
    }

    fn leaves(&self) -> bool {
        self.link.superseded()
    }

    fn halts(&self) -> bool {
        self.link.halts()
    }

    fn keeps(&self, step: u64) -> bool {
        step <= self.durable || self.in_flight == Some(step)
    }

    fn halted(&mut self) -> Result<(), TrainError> {
        self.settle()?;
        let generation = self.generation;
        self.link.send(&FromRank::Halted { generation })?;
        Ok(self.link.wait_superseded(GROUP_DEADLINE)?)
    }
}
