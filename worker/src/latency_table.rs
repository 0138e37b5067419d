//! `espalier-worker latency-table`: measures what `compress.cost = { latency = ".." }` counts with.
//!
//! Every module is measured inside of a model that has nothing but its like: the time of L modules less
//! that of a model without any, over L. So it runs as it will, with its weights as cold or warm.

use std::{fs, path::Path, time::Duration};

use anyhow::Context as _;
use espalier_vit::{
    BlockStructure, Config, Dims, GateConfig, LatencyTable, Point, Routing, Structure, Vit,
    neuron_candidates,
};
use tch::{Device, Kind, Tensor};

use crate::{
    args::LatencyTableArgs,
    rank::use_one_thread,
    turns::{Contestant, Lap, Rounds, Spread, in_turn},
};

/// Measures and writes the table.
///
/// # Errors
/// Times that make no sense, a file that cannot be written.
pub fn run(args: &LatencyTableArgs) -> anyhow::Result<()> {
    use_one_thread();
    tch::set_num_threads(args.threads as i32);
    let dims = Dims::from(args.preset.dims(args.classes));
    let table = measure(dims, args)?;
    table
        .check()
        .context("the times are too noisy: measure on a quiet machine, with more --rounds")?;
    let text = serde_json::to_string_pretty(&table)?;
    fs::write(&args.output, text + "\n")
        .with_context(|| format!("{}: cannot write", args.output.display()))?;
    println!(
        "{}: {} sizes of MHSA, {} of FFN",
        args.output.display(),
        table.attn.len(),
        table.ffn.len()
    );
    Ok(())
}

/// The parts that are measured, each by a model of its own.
enum Part {
    Fixed,
    Attn(i64),
    Ffn(i64),
    /// Gates before MHSAs of one head.
    Gated,
}

fn measure(dims: Dims, args: &LatencyTableArgs) -> anyhow::Result<LatencyTable> {
    let gate = espalier_job::Gate {
        hidden_ratio: args.gate_hidden_ratio,
        ..espalier_job::Gate::default()
    };
    // Gates that are timed see no budget.
    let gate = GateConfig::from_job(&gate, 1.0, &dims);
    let neurons = neuron_candidates(dims.ffn, args.neuron_candidates.into());
    let parts: Vec<Part> = [Part::Fixed, Part::Gated]
        .into_iter()
        .chain((1..=dims.heads).map(Part::Attn))
        .chain(neurons.iter().map(|&neurons| Part::Ffn(neurons)))
        .collect();
    let models: Vec<Vit> = parts
        .iter()
        .map(|part| model(dims, &gate, part))
        .collect::<Result<_, _>>()?;
    let batch = i64::from(args.batch);
    let side = dims.image_size;
    let x_BCHW = Tensor::zeros(
        [batch, dims.channels, side, side],
        (Kind::Float, Device::Cpu),
    );
    let mut contestants: Vec<Contestant<'_, anyhow::Error>> = models
        .iter()
        .map(|model| -> Contestant<'_, anyhow::Error> {
            Box::new(|_| {
                Ok(Lap::of(|| {
                    drop(model.forward(&x_BCHW, &Routing::PerSample))
                }))
            })
        })
        .collect();
    let rounds = Rounds {
        warm_up: 2,
        least: args.rounds as usize,
        most: args.rounds as usize,
        time: Duration::MAX,
    };
    let laps = in_turn(&mut contestants, 1, rounds)?;
    let image_ms = |index: usize| {
        Spread::of(laps[index].iter().map(|lap| lap.wall_ms)).median / f64::from(args.batch)
    };
    let fixed_ms = image_ms(0);
    let of_module = |index: usize| (image_ms(index) - fixed_ms) / dims.depth as f64;
    let first_attn = 2;
    let first_ffn = first_attn + dims.heads as usize;
    let points = |first: usize, sizes: &[i64]| {
        let sizes = sizes.iter().enumerate();
        sizes
            .map(|(index, &size)| Point {
                size,
                ms: of_module(first + index),
            })
            .collect()
    };
    Ok(LatencyTable {
        dims,
        gate_hidden: gate.hidden,
        batch: args.batch,
        threads: args.threads,
        device: format!("cpu: {}", processor_name()),
        fixed_ms,
        gate_ms: (of_module(1) - of_module(first_attn)).max(0.0),
        attn: points(first_attn, &(1..=dims.heads).collect::<Vec<_>>()),
        ffn: points(first_ffn, &neurons),
    })
}

/// L blocks of the part alone. Gates keep everything.
fn model(dims: Dims, gate: &GateConfig, part: &Part) -> anyhow::Result<Vit> {
    let (heads, neurons) = match *part {
        Part::Fixed => (0, 0),
        Part::Attn(heads) => (heads, 0),
        Part::Gated => (1, 0),
        Part::Ffn(neurons) => (0, neurons),
    };
    let blocks = (0..dims.depth).map(|_| BlockStructure { heads, neurons });
    let channels = dims.channels as usize;
    let config = Config {
        structure: Structure {
            blocks: blocks.collect(),
        },
        gate: matches!(part, Part::Gated).then_some(*gate),
        ..Config::dense(dims, vec![0.5; channels], vec![0.25; channels])
    };
    let mut vit = Vit::new(config, 0, Device::Cpu)?;
    vit.set_threshold(f64::NEG_INFINITY);
    Ok(vit)
}

/// As Linux has it; "unknown" elsewhere.
fn processor_name() -> String {
    let info = fs::read_to_string(Path::new("/proc/cpuinfo")).unwrap_or_default();
    info.lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or_else(|| "unknown".to_owned(), |(_, name)| name.to_owned())
}

#[cfg(test)]
mod tests {
    use espalier_job::Preset;

    use super::*;

    #[test]
    fn the_table_has_every_size_that_a_job_asks_for() {
        tch::set_num_threads(1);
        let mut dims = Dims::from(Preset::DeitTiny.dims(10));
        (dims.image_size, dims.depth, dims.width, dims.ffn) = (32, 2, 48, 64);
        let args = LatencyTableArgs {
            preset: Preset::DeitTiny,
            classes: 10,
            neuron_candidates: 4,
            gate_hidden_ratio: 0.125,
            batch: 2,
            threads: 1,
            rounds: 3,
            output: "unused".into(),
        };
        let table = measure(dims, &args).unwrap();
        table.fits(&dims, Some(6), &[16, 32, 48, 64]).unwrap();
        assert_eq!((table.attn.len(), table.ffn.len()), (3, 4));
        assert!(table.fixed_ms > 0.0);
        assert!(table.device.starts_with("cpu: "));
    }
}
