//! Evaluates a published model's folder on validation data, as the report card was.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use espalier_data::{Dataset, Shape, loaders};
use espalier_job::{Augment, Damaged, Data, DataFormat, Interpolation};
use espalier_vit::{Config, Cost, Vit};
use serde::Serialize;
use tch::Device;

use crate::{
    args::{EvalArgs, Format, GateMode, Precision},
    flips::{Flips, flips},
    rank::{Measured, Mode, ReportCard, chain, measure, use_one_thread},
};

/// What an evaluation gives.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Evaluation {
    /// How the gates decided: "per-sample" or "shared".
    pub mode: &'static str,
    /// Inference batch; in per-sample mode the result does not depend on it.
    pub batch: u32,
    /// The budget that was asked for, if one was: MACs over those of the dense model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget: Option<f64>,
    /// Share of samples classified right.
    pub accuracy: f64,
    /// Samples classified right.
    pub correct: u64,
    /// Samples.
    pub samples: u64,
    /// Multiply-accumulates for one image.
    pub macs: Macs,
    /// What modules computed in: "f32" or "bf16".
    pub precision: &'static str,
    /// How f32 does on the same data, where it was not f32.
    pub against_f32: Option<AgainstF32>,
    /// Digest of the validation data.
    pub validation_digest: String,
}

/// How the model does in f32, and what another precision changed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AgainstF32 {
    /// Share of samples classified right in f32.
    pub accuracy: f64,
    /// Decisions of the gates that differ.
    pub flips: Flips,
}

/// Multiply-accumulates for one image, hard.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Macs {
    /// The dense model.
    pub dense: f64,
    /// This model, mean over the data, gates included.
    pub effective: f64,
    /// `effective` over `dense`.
    pub effective_ratio: f64,
}

/// Evaluates and prints.
///
/// # Errors
/// A file of the checkpoint or of the data that is missing or damaged, with its path.
pub fn run(args: &EvalArgs) -> anyhow::Result<()> {
    use_one_thread();
    let evaluation = evaluate(args)?;
    if args.json {
        println!("{}", serde_json::to_string(&evaluation)?);
    } else {
        println!(
            "accuracy {:.4} ({} of {}), {:.4} of the dense MACs, {} at batch {}",
            evaluation.accuracy,
            evaluation.correct,
            evaluation.samples,
            evaluation.macs.effective_ratio,
            evaluation.mode,
            evaluation.batch
        );
        if let Some(f32) = &evaluation.against_f32 {
            println!(
                "in {}; in f32 accuracy {:.4}, and {:.4} of the gates' decisions differ",
                evaluation.precision, f32.accuracy, f32.flips.rate
            );
        }
    }
    Ok(())
}

/// Evaluates the folder.
///
/// # Errors
/// As [`run`].
pub fn evaluate(args: &EvalArgs) -> anyhow::Result<Evaluation> {
    let open = || -> anyhow::Result<Vit> {
        let mut model =
            Vit::open(&args.dir, Device::Cpu).map_err(|error| anyhow::anyhow!(chain(&error)))?;
        if let Some(budget) = args.budget {
            let moved = model.run_at(budget);
            moved.with_context(|| format!("{}: --budget", args.dir.display()))?;
        }
        Ok(model)
    };
    let model = open()?;
    let rounded = match args.precision {
        Precision::F32 => None,
        Precision::Bf16 => Some(open()?.into_bf16().context("--precision")?),
    };
    let validation = validation(&args.dir, args.data.as_deref(), args.format, model.config())?;
    let (mode, name) = match args.mode {
        GateMode::PerSample => (Mode::PerSample, "per-sample"),
        // A batch of one decides alone, and skips for it.
        GateMode::Shared if args.batch == 1 => (Mode::PerSample, "shared"),
        GateMode::Shared => (Mode::Shared(args.batch as usize), "shared"),
    };
    let config = model.config();
    let run = |model: &Vit| -> anyhow::Result<Measured> {
        let measured = measure(model, &validation, validation.len(), &[mode])?;
        measured.into_iter().next().context("one mode was measured")
    };
    let exact = run(&model)?;
    let (precision, measured, against_f32) = match rounded {
        None => ("f32", exact, None),
        Some(rounded) => {
            let measured = run(&rounded)?;
            let against = AgainstF32 {
                accuracy: exact.accuracy(),
                flips: flips(config, &exact.decisions_BM, &measured.decisions_BM),
            };
            ("bf16", measured, Some(against))
        }
    };
    Ok(Evaluation {
        mode: name,
        batch: args.batch,
        budget: args.budget,
        accuracy: measured.accuracy(),
        correct: measured.correct,
        samples: measured.samples,
        macs: macs(config, &measured),
        precision,
        against_f32,
        validation_digest: validation.digest().to_owned(),
    })
}

fn macs(config: &Config, measured: &Measured) -> Macs {
    let cost = Cost::new(&config.dims, config.gate.as_ref());
    let rates = measured.rates();
    let effective = cost.effective(&config.structure, |module| rates[module]);
    Macs {
        dense: cost.dense(),
        effective,
        effective_ratio: effective / cost.dense(),
    }
}

/// The validation data of the model in `dir`: that of `folder` and `format` where given, or else that of the
/// report card.
///
/// # Errors
/// No word on which data it is, data that is missing or damaged.
pub(crate) fn validation(
    dir: &Path,
    folder: Option<&Path>,
    format: Option<Format>,
    config: &Config,
) -> anyhow::Result<Dataset> {
    let card = read_card(dir)?;
    let data = data(dir, folder, format, config, card.as_ref())?;
    let shape = Shape {
        channels: config.dims.channels as usize,
        image_size: config.dims.image_size as usize,
        classes: config.dims.classes as usize,
    };
    let validation = Dataset::validation(&data, shape, loaders(None, 1))
        .context("opening the validation data")?;
    if let Some(card) = &card
        && card.dataset.validation_digest != validation.digest()
    {
        tracing::warn!(
            report_card = card.dataset.validation_digest,
            here = validation.digest(),
            "the validation data is not that of the report card"
        );
    }
    Ok(validation)
}

/// `report.json`, if the folder has one.
fn read_card(folder: &Path) -> anyhow::Result<Option<ReportCard>> {
    let path = folder.join("report.json");
    match fs::read(&path) {
        Ok(text) => serde_json::from_slice(&text)
            .map(Some)
            .with_context(|| format!("{}: not a report card", path.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("{}: cannot read", path.display())),
    }
}

/// The validation data that is asked for, or else that of the report card.
fn data(
    dir: &Path,
    folder: Option<&Path>,
    format: Option<Format>,
    config: &Config,
    card: Option<&ReportCard>,
) -> anyhow::Result<Data> {
    let recorded = card.map(|card| PathBuf::from(&card.dataset.validation));
    let Some(folder) = folder.map(Path::to_owned).or(recorded) else {
        bail!(
            "{}: no report.json says which data to evaluate on; give --data",
            dir.display()
        );
    };
    let asked = format.map(|format| match format {
        Format::Idx => DataFormat::Idx,
        Format::Cifar => DataFormat::Cifar,
        Format::ImageFolder => DataFormat::ImageFolder,
        Format::WebDataset => DataFormat::WebDataset,
        Format::Parquet => DataFormat::Parquet,
    });
    let Some(format) = asked.or(card.map(|card| card.dataset.format)) else {
        bail!(
            "{}: no report.json says how the data is laid out; give --format",
            dir.display()
        );
    };
    let folder = folder.to_str().context("--data is not valid UTF-8")?;
    let (crop_pct, interpolation, damaged) = match card {
        Some(ReportCard { dataset, .. }) => {
            (dataset.crop_pct, dataset.interpolation, dataset.damaged)
        }
        None => (1.0, Interpolation::default(), Damaged::default()),
    };
    Ok(Data {
        format,
        train: folder.to_owned(),
        validation: folder.to_owned(),
        calibration: 0.05,
        mean: config.mean.clone(),
        std: config.std.clone(),
        crop_pct,
        interpolation,
        augment: Augment::default(),
        damaged,
        damaged_most: 1.0,
        loaders: None,
    })
}
