//! A rank: one process that trains. Blocking, with one torch thread; it knows its agent by a socket
//! and its peers by their collective, and no RPC.
//!
//! [`run`] is the process. [`Prepared`], [`Trainer`] and [`run_until`] are its parts for whoever
//! brings peers and an [`Observer`] of their own.
#[cfg(test)]
mod architecture_tests;
#[cfg(test)]
mod budget_tests;
mod budgets;
mod calibrate;
mod card;
mod checkpoint;
mod ema;
mod error;
mod finish;
mod flat;
mod gates;
#[cfg(test)]
mod halt_tests;
mod heal;
#[cfg(test)]
mod heal_tests;
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
mod progress;
mod readme;
mod report;
mod settle;
mod step;
#[cfg(test)]
mod tests;
mod train;
mod trainer;
mod transition;

use std::{
    path::Path,
    time::{Duration, Instant},
};

use espalier_collective::Collective;

pub use card::{BlockRate, ReportCard, schema};
pub use error::TrainError;
pub(crate) use error::chain;
pub(crate) use gates::block_rates;
pub(crate) use measure::{Measured, Mode, measure};
pub use observer::Observer;
pub use plan::{Plan, Position, Stage};
pub use prepare::{Assets, Prepared};
pub(crate) use report::dense;
pub(crate) use step::tensors;
pub use train::{run_until, train};
pub use trainer::{Advance, Trainer};

use crate::ipc::{Formation, FromRank, Group, Recovered, Start};
use finish::finish;
use heal::heal;
use link::Link;
use observer::AgentObserver;
use progress::{Progress, Ticker, Watched};
use train::catch_up;

/// How long the agent may take to answer the first message.
const START_DEADLINE: Duration = Duration::from_secs(60);
/// How long a rank keeps its state and waits to be told whom to train with: for the coordinator to come
/// back, or for others to join the survivors.
const GROUP_DEADLINE: Duration = Duration::from_secs(600);

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
pub fn run(socket: &Path, seat: u64) -> Result<(), TrainError> {
    use_one_thread();
    let link = Link::connect(socket)?;
    link.send(&FromRank::Hello { seat })?;
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

/// Trains in one group after another. A group that loses a rank fails; this rank then keeps its state
/// and waits for the next.
fn work(link: &Link, start: &Start) -> Result<(), TrainError> {
    let assets = Assets {
        init: start.init.clone(),
        teacher: start.teacher.clone(),
    };
    // The agent shows each rank its own GPU alone.
    let prepared = Prepared::new(&start.job_id, &start.spec_toml, &assets, 0)?;
    link.send(&FromRank::Ready)?;
    let progress = Progress::new();
    let tell = link.sender();
    let _ticker = Ticker::start(&progress, move |told| {
        tell(&FromRank::Progress(told)).is_ok()
    })
    .map_err(|error| TrainError::Machine(format!("cannot start a thread: {error}")))?;
    let mut observer = AgentObserver::new(link, &start.run_dir, progress.clone());
    let mut trainer = None;
    loop {
        let group = link.wait_group(GROUP_DEADLINE)?;
        let generation = group.generation;
        tracing::debug!(
            generation,
            rank = group.rank,
            world_size = group.world_size,
            reason = group.reason,
            "in a new group"
        );
        let duties = (&mut observer, &progress);
        match attend(link, start, &prepared, &group, &mut trainer, duties) {
            Ok(Ended::Done) => return observer.settle(),
            Ok(Ended::Left) => {}
            Err(TrainError::Collective(error)) if error.is_loss() => {
                let reason = error.to_string();
                tracing::info!(
                    generation,
                    reason,
                    "the group has failed; waiting for another"
                );
                link.send(&FromRank::Waiting { generation, reason })?;
            }
            Err(error) => return Err(error),
        }
        observer.parts();
    }
}

/// How a rank's time in a group ended.
enum Ended {
    /// All work is done.
    Done,
    /// There is a newer group.
    Left,
}

/// Meets the group, comes to the same state as its other ranks, and trains with them.
fn attend<'a>(
    link: &Link,
    start: &Start,
    prepared: &'a Prepared,
    group: &Group,
    trainer: &mut Option<Trainer<'a>>,
    (observer, progress): (&mut AgentObserver<'_>, &Progress),
) -> Result<Ended, TrainError> {
    let begun = Instant::now();
    if group.formation == Formation::Fresh {
        *trainer = Some(load(start, prepared, group.committed_step)?);
    }
    let Some(world) = join::join(link, start, group, prepared.device)? else {
        return Ok(Ended::Left);
    };
    let met = Instant::now();
    link.watch(&world);
    progress.joins(group.generation);
    let watched = Watched {
        world: world.as_ref(),
        progress: progress.clone(),
    };
    let ended = together(
        link,
        prepared,
        group,
        trainer,
        observer,
        (&watched, met - begun),
    );
    link.unwatch();
    if let Err(error) = &ended {
        // Ends what other threads of this rank may still wait for.
        world.abort(&error.to_string());
    }
    join::leave(world);
    ended
}

/// The state of the last checkpoint, or of the first step.
fn load<'a>(
    start: &Start,
    prepared: &'a Prepared,
    committed_step: u64,
) -> Result<Trainer<'a>, TrainError> {
    let trainer = match &start.resume {
        Some(folder) => Trainer::resume(prepared, folder)?,
        None => Trainer::new(prepared)?,
    };
    if trainer.step() != committed_step {
        return Err(TrainError::Machine(format!(
            "the checkpoint to go on from ends at step {}, but {committed_step} steps are committed",
            trainer.step(),
        )));
    }
    Ok(trainer)
}

/// Heals and trains in a group that has met, after a time.
fn together<'a>(
    link: &Link,
    prepared: &'a Prepared,
    group: &Group,
    trainer: &mut Option<Trainer<'a>>,
    observer: &mut AgentObserver<'_>,
    (world, meeting): (&dyn Collective, Duration),
) -> Result<Ended, TrainError> {
    let met = Instant::now();
    observer.joins(group);
    let healing = heal(prepared, trainer, world)?;
    // Healing ends with a state on every rank, or with an error.
    let Some(replica) = trainer else {
        return Err(TrainError::Machine("healed without a state".to_owned()));
    };
    let total_steps = prepared.plan.total();
    link.send(&FromRank::Running {
        generation: group.generation,
        total_steps,
    })?;
    if world.rank() == 0 && group.formation != Formation::Fresh {
        observer.recovers(Recovered {
            generation: group.generation,
            step: healing.step,
            healed: healing.healed.len() as u32,
            meet_ms: meeting.as_millis() as u64,
            heal_ms: met.elapsed().as_millis() as u64,
            step_ms: 0,
        });
        let _duty = observer.aside();
        catch_up(prepared, replica, group.committed_step, observer)?;
    }
    run_until(prepared, replica, world, observer, total_steps)?;
    if replica.step() < total_steps {
        return Ok(Ended::Left);
    }
    if world.rank() == 0
        && let Some(replica) = trainer.take()
    {
        let _duty = observer.aside();
        finish(prepared, replica, observer)?;
    }
    Ok(Ended::Done)
}
