//! The loop of a rank: steps to the end, then, on rank 0, the finished model.

use std::time::Instant;

use espalier_collective::Collective;
use espalier_data::{Loaded, Loader, Work};
use tch::Tensor;

use super::{
    error::TrainError,
    finish::finish,
    observer::{AgentObserver, Observer},
    plan::micro_batches,
    prepare::Prepared,
    trainer::{Advance, Trainer},
};
use crate::ipc::{CheckpointKind, Metrics};

/// Runs the steps that are left and, on rank 0, hands over checkpoints and the finished model.
///
/// # Errors
/// Whatever ends the rank early.
pub fn train(
    prepared: &Prepared,
    mut trainer: Trainer<'_>,
    world: &dyn Collective,
    observer: &mut dyn Observer,
) -> Result<(), TrainError> {
    let known = prepared.splits.damaged();
    if world.rank() == 0 {
        for damaged in &known {
            observer.warning(format!("skipping: {damaged}"))?;
        }
    }
    run_until(
        prepared,
        &mut trainer,
        world,
        observer,
        prepared.plan.total(),
    )?;
    if world.rank() == 0 {
        // Those that only decoding showed, as far as this rank met them.
        for damaged in prepared.splits.damaged() {
            if !known.contains(&damaged) {
                observer.warning(format!("skipped: {damaged}"))?;
            }
        }
        finish(prepared, trainer, observer)?;
    }
    Ok(())
}

/// Runs steps until `last` is done, or the observer says that the group is to be left. One that halts
/// makes its peers wait in the step that rank 0 does not begin.
///
/// # Errors
/// Whatever ends the rank early.
pub fn run_until(
    prepared: &Prepared,
    trainer: &mut Trainer<'_>,
    world: &dyn Collective,
    observer: &mut dyn Observer,
    last: u64,
) -> Result<(), TrainError> {
    let own = micro_batches(world.rank(), world.world_size(), prepared.micro_batches());
    let ahead = {
        let own = own.clone();
        (trainer.step() + 1..=last).flat_map(move |step| {
            own.clone().map(move |micro_batch| Work {
                step,
                micro_batch: micro_batch as usize,
            })
        })
    };
    let mut loader = Loader::start(prepared.feed(), ahead)
        .map_err(|error| TrainError::Machine(format!("cannot start the loader: {error}")))?;
    let mut clock = StepClock::start();
    while trainer.step() < last && !observer.leaves() {
        if world.rank() == 0 && observer.halts() {
            let _duty = observer.aside();
            if !observer.keeps(trainer.step()) {
                checkpoint(trainer, observer)?;
            }
            observer.halted()?;
            continue;
        }
        let own = take(&mut loader, own.len())?;
        let advance = trainer.advance(&own, world)?;
        clock.steps += 1;
        let step = trainer.step();
        observer.stepped(step, own.len())?;
        if world.rank() == 0 {
            let _duty = observer.aside();
            report(prepared, trainer, &advance, observer, &mut clock)?;
        } else if measures(prepared, step) {
            trainer.measured = Some(metrics(prepared, trainer, &advance, None, clock.lap()));
        }
    }
    Ok(())
}

/// What a rank that has become rank 0 tells of the last step: the one before it may not have come to
/// it. `committed` is the last step that is durable.
///
/// # Errors
/// Nobody listens any more, or a checkpoint cannot be written.
pub(super) fn catch_up(
    prepared: &Prepared,
    trainer: &Trainer<'_>,
    committed: u64,
    observer: &mut AgentObserver<'_>,
) -> Result<(), TrainError> {
    let step = trainer.step();
    if let Some(measured) = &trainer.measured
        && !observer.has_told(measured.step)
    {
        observer.metrics(measured.clone())?;
    }
    let due = prepared.plan.checkpoints(step, prepared.job.publish.every);
    if due && step > committed && !observer.has_handed_over(step) {
        checkpoint(trainer, observer)?;
    }
    Ok(())
}

/// Whether a step is measured wherever it runs.
fn measures(prepared: &Prepared, step: u64) -> bool {
    step.is_multiple_of(prepared.job.train.metrics_every) || step == prepared.plan.total()
}

/// The next micro-batches of this rank.
fn take(loader: &mut Loader, count: usize) -> Result<Vec<Loaded>, TrainError> {
    let taken: Vec<Loaded> = loader
        .take(count)
        .collect::<Result<_, _>>()
        .map_err(TrainError::Data)?;
    if taken.len() < count {
        return Err(TrainError::Machine("the loader ended early".to_owned()));
    }
    Ok(taken)
}

/// What rank 0 tells after a step.
fn report(
    prepared: &Prepared,
    trainer: &mut Trainer<'_>,
    advance: &Advance,
    observer: &mut dyn Observer,
    clock: &mut StepClock,
) -> Result<(), TrainError> {
    let (plan, job) = (&prepared.plan, &prepared.job);
    let step = trainer.step();
    if let Some(choice) = &advance.choice {
        tracing::info!(step, reason = choice.reason, "chose the structure");
        if !choice.within_budget {
            observer.warning(format!(
                "the pruned model misses its budget: {}",
                choice.reason
            ))?;
        }
    }
    let evaluated = plan
        .evaluates(step)
        .then(|| trainer.accuracy())
        .transpose()?;
    if measures(prepared, step) || evaluated.is_some() {
        let seconds = clock.lap();
        let measured = metrics(prepared, trainer, advance, evaluated, seconds);
        trainer.measured = Some(measured.clone());
        observer.metrics(measured)?;
    }
    if plan.checkpoints(step, job.publish.every) {
        checkpoint(trainer, observer)?;
    }
    Ok(())
}

fn checkpoint(trainer: &Trainer<'_>, observer: &mut dyn Observer) -> Result<(), TrainError> {
    let step = trainer.step();
    let folder = observer.folder().join(format!("checkpoint-{step}"));
    trainer.save(&folder)?;
    observer.checkpoint(step, folder, CheckpointKind::Training)
}

fn metrics(
    prepared: &Prepared,
    trainer: &Trainer<'_>,
    advance: &Advance,
    eval_accuracy: Option<f64>,
    seconds_per_step: f64,
) -> Metrics {
    let outcome = &advance.outcome;
    let gate_rates = values(&outcome.global.mean_M);
    let cost = trainer.cost();
    // At the end of the search the model is already the next stage's, which the step's gates fit.
    let macs_hard = cost.effective(&trainer.structure(), |module| gate_rates[module]);
    Metrics {
        step: trainer.step(),
        total_steps: prepared.plan.total(),
        stage: prepared.plan.at(trainer.step()).stage.name().to_owned(),
        loss: outcome.loss,
        cross_entropy: outcome.global.cross_entropy,
        distillation: outcome.global.distillation,
        resource: outcome.resource,
        accuracy: outcome.global.accuracy,
        macs_soft: outcome.macs_soft,
        macs_hard: macs_hard / cost.dense(),
        lr: advance.lr,
        grad_norm: advance.grad_norm,
        samples_per_second: outcome.global.samples / seconds_per_step,
        seconds_per_step,
        gate_rates,
        eval_accuracy,
    }
}

fn values(vector: &Tensor) -> Vec<f64> {
    (0..vector.size()[0])
        .map(|index| vector.double_value(&[index]))
        .collect()
}

/// Wall time of the steps since the last record.
struct StepClock {
    since: Instant,
    steps: u32,
}

impl StepClock {
    fn start() -> Self {
        Self {
            since: Instant::now(),
            steps: 0,
        }
    }

    /// Seconds a step took; starts over.
    fn lap(&mut self) -> f64 {
        let seconds = self.since.elapsed().as_secs_f64() / f64::from(self.steps.max(1));
        *self = Self::start();
        seconds
    }
}
