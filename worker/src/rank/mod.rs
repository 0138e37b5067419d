//! A rank: one process that trains. Blocking, with one torch thread; it knows its agent by a socket
//! and its peers by their collective, and no RPC.
//!
//! [`run`] is the process. [`Prepared`], [`Trainer`] and [`run_until`] are its parts for whoever
//! brings peers and an [`Observer`] of their own.
// Names of tensors end in their shape; the legend is that of `espalier_vit`.
#![allow(non_snake_case)]

#[cfg(test)]
mod architecture_tests;
#[cfg(test)]
mod budget_tests;
mod calibrate;
mod card;
mod checkpoint;
mod ema;
mod error;
mod finish;
mod flat;
mod gates;
mod join;
mod latency;
mod link;
mod measure;
mod objective;
mod observer;
mod optimizer;
mod pattern;
mod plan;
mod prepare;
mod readme;
mod report;
mod settle;
mod step;
#[cfg(test)]
mod tests;
mod train;
mod trainer;
mod transition;

use std::{path::Path, time::Duration};

pub use card::{ReportCard, schema};
pub use error::TrainError;
pub(crate) use error::chain;
pub(crate) use measure::{Measured, Mode, measure};
pub use observer::{AgentObserver, Observer};
pub use plan::{Plan, Position, Stage};
pub use prepare::{Assets, Prepared};
pub use train::{run_until, train};
pub use trainer::{Advance, Trainer};

use crate::ipc::{FromRank, Start};
use link::Link;

/// How long the agent may take to answer the first message.
const START_DEADLINE: Duration = Duration::from_secs(60);

/// One torch thread: ranks share a machine's cores, and more threads each would fight for them.
/// Before any tensor is made.
pub fn use_one_thread() {
    tch::set_num_threads(1);
    tch::set_num_interop_threads(1);
}

/// Runs a rank from its first message to its last.
///
/// # Errors
/// Whatever kept it from its end, after the agent was told.
pub fn run(socket: &Path, rank: u32) -> Result<(), TrainError> {
    use_one_thread();
    let link = Link::connect(socket)?;
    link.send(&FromRank::Hello { rank })?;
    let start = link.wait_start(START_DEADLINE)?;
    match work(&link, &start) {
        Ok(()) => Ok(link.send(&FromRank::Done)?),
        Err(error) => {
            link.send(&FromRank::Failed {
                fault: error.fault(),
                reason: error.to_string(),
            })?;
            Err(error)
        }
    }
}

fn work(link: &Link, start: &Start) -> Result<(), TrainError> {
    let assets = Assets {
        init: start.init.clone(),
        teacher: start.teacher.clone(),
    };
    let prepared = Prepared::new(&start.job_id, &start.spec_toml, &assets, start.rank)?;
    let trainer = match &start.resume {
        Some(folder) => Trainer::resume(&prepared, folder)?,
        None => Trainer::new(&prepared)?,
    };
    if trainer.step() != start.committed_step {
        return Err(TrainError::Machine(format!(
            "the checkpoint to go on from ends at step {}, but {} steps are committed",
            trainer.step(),
            start.committed_step
        )));
    }
    let world = join::join(link, start, prepared.device)?;
    let total_steps = prepared.plan.total();
    link.send(&FromRank::Running { total_steps })?;
    let mut observer = AgentObserver::new(link, &start.run_dir);
    let trained = train(&prepared, trainer, world.as_ref(), &mut observer);
    if let Err(error) = &trained {
        // Ends what other threads of this rank may still wait for.
        world.abort(&error.to_string());
    }
    trained?;
    observer.settle()
}
