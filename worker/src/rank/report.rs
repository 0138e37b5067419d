//! Measures the report card of a finished model.

use std::{fs, path::Path};

use espalier_vit::{Config, Cost, Structure, Vit, WeightsError, save_tensors};
use tch::Device;

use super::{
    card::{
        AccuracyCard, BudgetCard, ByBatch, DatasetCard, GatesCard, MacsCard, ParamsCard,
        ReportCard, TimeCard,
    },
    error::TrainError,
    gates::{block_rates, gated, paths, shuffled},
    latency::latency,
    measure::{Measured, Mode, measure},
    prepare::Prepared,
};

/// Inference batches of shared mode that are measured beside 1. Each divides the next, so that all are
/// measured in one pass.
const SHARED: [usize; 5] = [2, 8, 32, 64, 256];

/// The card of `model`, whose files are in `folder`. `frontier` is of [`super::budgets::frontier`].
///
/// # Errors
/// An image that cannot be read.
pub(super) fn report(
    prepared: &Prepared,
    model: &Vit,
    folder: &Path,
    bytes_dense: u64,
    step: u64,
    frontier: Vec<BudgetCard>,
) -> Result<ReportCard, TrainError> {
    let validation = prepared.validation();
    let run = |modes: &[Mode<'_>]| {
        measure(model, validation, validation.len(), modes).map_err(TrainError::Data)
    };
    let (per_sample, shared) = measured(model, run)?;
    let shuffled = shuffled(&per_sample.decisions_BM, prepared.job.train.seed);
    // Permuting one path over the samples changes nothing.
    let paths = paths(&per_sample.decisions_BM);
    let shuffle_gain = if paths.distinct > 1 {
        per_sample.accuracy() - run(&[Mode::Forced(&shuffled)])?[0].accuracy()
    } else {
        0.0
    };

    let structure = &model.config().structure;
    let cost = Cost::new(&model.config().dims, model.config().gate.as_ref());
    let macs = |measured: &Measured| {
        let rates = measured.rates();
        cost.effective(structure, |module| rates[module])
    };
    let (dense, static_part) = (cost.dense(), cost.static_macs(structure));
    let effective = macs(&per_sample);
    let model_file = folder.join("model.safetensors");
    Ok(ReportCard {
        job: prepared.job_id.clone(),
        step,
        seed: prepared.job.train.seed,
        dataset: dataset(prepared),
        macs: MacsCard {
            dense,
            static_part,
            effective,
            target: prepared.job.compress.target,
            static_ratio: static_part / dense,
            effective_ratio: effective / dense,
            by_batch: by_batch(&shared, macs),
        },
        budget: budget(prepared, model.config(), &per_sample.rates()),
        params: ParamsCard {
            dense: Cost::new(&model.config().dims, None)
                .params(&Structure::full(&model.config().dims)) as u64,
            compressed: cost.params(structure) as u64,
        },
        bytes: fs::metadata(&model_file)
            .map_err(|source| TrainError::Write {
                path: model_file,
                source,
            })?
            .len(),
        bytes_dense,
        accuracy: AccuracyCard {
            shared: by_batch(&shared, Measured::accuracy),
            per_sample: per_sample.accuracy(),
        },
        gates: GatesCard {
            decide: model.config().gate.map(|gate| gate.decide),
            threshold: model.config().gate.map_or(0.0, |gate| gate.threshold),
            threshold_shared: model.config().gate.and_then(|gate| gate.threshold_shared),
            rate: block_rates(model.config(), &per_sample.rates()),
            distinct_paths: paths.distinct,
            constant: paths.distinct == 1,
            top_path_share: paths.top_share,
            shuffle_gain,
        },
        latency_ms: latency(model, validation).map_err(TrainError::Data)?,
        frontier,
    })
}

/// How the budget was met, where it was not one of MACs. `rates`: share of the samples that run each module.
fn budget(prepared: &Prepared, config: &Config, rates: &[f64]) -> Option<TimeCard> {
    let cost = prepared.cost(config.gate.as_ref());
    let table = cost.table()?;
    let effective = cost.effective(&config.structure, |module| rates[module]);
    Some(TimeCard {
        unit: "milliseconds".to_owned(),
        device: table.device.clone(),
        batch: table.batch,
        threads: table.threads,
        dense: cost.dense(),
        effective,
        target: prepared.job.compress.target,
        effective_ratio: effective / cost.dense(),
    })
}

/// Size of `model.safetensors` of the dense model of the same dimensions, written once into
/// `folder` and taken away again.
///
/// # Errors
/// The file system's.
pub(super) fn size_of_dense(folder: &Path, config: &Config) -> Result<u64, WeightsError> {
    let dense = dense(config, Device::Cpu);
    let path = folder.join("dense.safetensors");
    save_tensors(&path, &dense.parameters())?;
    let failed = |action| {
        let path = path.clone();
        move |source| WeightsError::Io {
            path,
            action,
            source,
        }
    };
    let size = fs::metadata(&path).map_err(failed("read its size"))?.len();
    fs::remove_file(&path).map_err(failed("remove the file"))?;
    Ok(size)
}

/// The dense model of the same dimensions, with weights that mean nothing.
pub(crate) fn dense(config: &Config, device: Device) -> Vit {
    let dense = Config::dense(config.dims, config.mean.clone(), config.std.clone());
    Vit::new(dense, 0, device)
        .unwrap_or_else(|error| unreachable!("these dimensions are those of a model: {error}"))
}

/// Per-sample mode, and shared mode by inference batch.
fn measured(
    model: &Vit,
    run: impl Fn(&[Mode<'_>]) -> Result<Vec<Measured>, TrainError>,
) -> Result<(Measured, Vec<(usize, Measured)>), TrainError> {
    let mut modes = vec![Mode::PerSample];
    // Without gates there is nothing to decide: every mode is the same.
    if gated(model) {
        modes.extend(SHARED.map(Mode::Shared));
    }
    let mut all = run(&modes)?.into_iter();
    let Some(per_sample) = all.next() else {
        unreachable!("one mode was asked for at least");
    };
    // A batch of one decides alone: shared mode at batch 1 is per-sample mode.
    let mut shared = vec![(1, per_sample.share())];
    for size in SHARED {
        shared.push((size, all.next().unwrap_or_else(|| per_sample.share())));
    }
    Ok((per_sample, shared))
}

fn by_batch(shared: &[(usize, Measured)], value: impl Fn(&Measured) -> f64) -> ByBatch {
    shared
        .iter()
        .map(|(size, measured)| (size.to_string(), value(measured)))
        .collect()
}

fn dataset(prepared: &Prepared) -> DatasetCard {
    let data = &prepared.job.data;
    DatasetCard {
        format: data.format,
        validation: data.validation.clone(),
        samples: prepared.validation().len() as u64,
        crop_pct: data.crop_pct,
        interpolation: data.interpolation,
        damaged: data.damaged,
        digest: prepared.splits.digest(),
        validation_digest: prepared.validation().digest().to_owned(),
    }
}
