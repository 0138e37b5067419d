//! `espalier-worker bench`: how much faster than its dense twin a model is on this machine.
//!
//! The bound is what multiply-accumulates alone promise: the dense model's over those that the model
//! really spends on the timed batches, its gates included. A speed-up is held against it.
mod peer;
mod subject;
mod synthetic;
mod table;

use std::time::Duration;

use espalier_vit::{Cost, Routing, Vit};
use serde::Serialize;
use tch::{Kind, Tensor};

use self::{peer::Peer, subject::Subject};
use crate::{
    args::BenchArgs,
    rank::use_one_thread,
    turns::{Contestant, Lap, Rounds, Spread, in_turn},
};

/// Forward passes of small batches in a round: gates decide differently for different images, so
/// that one image would say little.
const INPUTS: usize = 16;
/// Rounds that are not counted.
const WARM_UP: usize = 2;
/// Counted rounds, at least.
const LEAST: usize = 5;

/// How gates decide in a row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// One decision per batch.
    Shared,
    /// Every sample alone.
    PerSample,
}

impl Mode {
    const ALL: [Self; 2] = [Self::Shared, Self::PerSample];

    fn routing(self) -> Routing<'static> {
        match self {
            Self::Shared => Routing::Shared,
            Self::PerSample => Routing::PerSample,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Shared => "shared",
            Self::PerSample => "per-sample",
        }
    }
}

/// What the benchmark found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// What was measured.
    pub model: String,
    /// Multiply-accumulates of the dense model for one image.
    pub dense_macs: f64,
    /// Those of the model with every gate open, over the dense model's.
    pub static_ratio: f64,
    /// By threads, batch and mode.
    pub rows: Vec<Row>,
}

/// One way to run the model, against the dense one. Times are of the wall, milliseconds a batch.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Torch's threads.
    pub threads: u32,
    /// Images in a batch.
    pub batch: u32,
    /// How gates decide.
    pub mode: Mode,
    /// Rounds that were counted.
    pub rounds: usize,
    /// The dense model.
    pub dense_ms: Spread,
    /// This model.
    pub model_ms: Spread,
    /// The dense model in eager PyTorch.
    pub eager_ms: Option<Spread>,
    /// Dense over this model, round by round.
    pub speed_up: Spread,
    /// The same of the time that the process spent on processors.
    pub processor_speed_up: Spread,
    /// Eager PyTorch's dense model over this model, round by round.
    pub speed_up_over_eager: Option<Spread>,
    /// Multiply-accumulates of the dense model over those spent on the timed batches.
    pub bound: f64,
    /// `speed_up` over `bound`, medians.
    pub share: f64,
    /// `processor_speed_up` over `bound`, medians.
    pub processor_share: f64,
}

/// Measures and prints.
///
/// # Errors
/// A file that is missing or damaged, with its path; a Python without what it needs.
pub fn run(args: &BenchArgs) -> anyhow::Result<()> {
    use_one_thread();
    let subject = Subject::of(args)?;
    let report = measure(&subject, args)?;
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print!("{}", table::render(&report));
    }
    Ok(())
}

fn measure(subject: &Subject, args: &BenchArgs) -> anyhow::Result<Report> {
    let cost = subject.cost();
    let mut peer = match &args.python {
        Some(python) => Some(Peer::start(python, &subject.dense, &subject.x_BCHW)?),
        None => None,
    };
    let mut rows = Vec::new();
    for &threads in &args.threads {
        for &batch in &args.batch {
            tracing::info!(threads, batch, "measuring");
            tch::set_num_threads(threads as i32);
            rows.extend(measure_batch(
                subject,
                &cost,
                peer.as_mut(),
                args,
                threads,
                batch,
            )?);
        }
    }
    Ok(Report {
        model: subject.name.clone(),
        dense_macs: cost.dense(),
        static_ratio: cost.static_macs(&subject.model.config().structure) / cost.dense(),
        rows,
    })
}

/// The rows of one batch size: the dense model, eager PyTorch and the model in both modes, in turn.
fn measure_batch(
    subject: &Subject,
    cost: &Cost,
    peer: Option<&mut Peer>,
    args: &BenchArgs,
    threads: u32,
    batch: u32,
) -> anyhow::Result<Vec<Row>> {
    let inputs = subject.batches(batch, INPUTS);
    let mut contestants = vec![contestant(&subject.dense, &inputs, Mode::PerSample)];
    contestants.extend(Mode::ALL.map(|mode| contestant(&subject.model, &inputs, mode)));
    let has_peer = peer.is_some();
    if let Some(peer) = peer {
        contestants.push(Box::new(move |input| peer.lap(threads, batch, input)));
    }
    let rounds = Rounds {
        warm_up: WARM_UP,
        least: LEAST,
        most: args.rounds as usize,
        time: Duration::from_secs(args.seconds.into()),
    };
    let laps = in_turn(&mut contestants, inputs.len(), rounds)?;
    drop(contestants);
    let row = |(mode, own): (Mode, &Vec<Lap>)| {
        let eager = has_peer.then(|| &laps[laps.len() - 1]);
        let bound = cost.dense() / spent(&subject.model, cost, &inputs, mode);
        let speed_up = over(&laps[0], own, |lap| lap.wall_ms);
        let processor_speed_up = over(&laps[0], own, |lap| lap.processor_ms);
        Row {
            threads,
            batch,
            mode,
            rounds: own.len(),
            dense_ms: wall(&laps[0]),
            model_ms: wall(own),
            eager_ms: eager.map(|laps| wall(laps)),
            speed_up,
            processor_speed_up,
            speed_up_over_eager: eager.map(|laps| over(laps, own, |lap| lap.wall_ms)),
            bound,
            share: speed_up.median / bound,
            processor_share: processor_speed_up.median / bound,
        }
    };
    Ok(Mode::ALL.into_iter().zip(&laps[1..]).map(row).collect())
}

fn contestant<'a>(
    model: &'a Vit,
    inputs: &'a [Tensor],
    mode: Mode,
) -> Contestant<'a, anyhow::Error> {
    Box::new(move |input| {
        Ok(Lap::of(|| {
            model.forward(&inputs[input], &mode.routing());
        }))
    })
}

/// Multiply-accumulates for one image, mean over the batches, by what the gates decide.
fn spent(model: &Vit, cost: &Cost, inputs: &[Tensor], mode: Mode) -> f64 {
    let decided = inputs
        .iter()
        .map(|x_BCHW| model.forward(x_BCHW, &mode.routing()).decisions_BM);
    let decisions_BM = Tensor::cat(&decided.collect::<Vec<_>>(), 0);
    let rate_M = decisions_BM.mean_dim([0].as_slice(), false, Kind::Double);
    cost.effective(&model.config().structure, |module| {
        rate_M.double_value(&[module as i64])
    })
}

fn wall(laps: &[Lap]) -> Spread {
    Spread::of(laps.iter().map(|lap| lap.wall_ms))
}

/// `slow` over `fast`, round by round: what slows a whole round cancels.
fn over(slow: &[Lap], fast: &[Lap], time: fn(&Lap) -> f64) -> Spread {
    Spread::of(
        slow.iter()
            .zip(fast)
            .map(|(slow, fast)| time(slow) / time(fast)),
    )
}
