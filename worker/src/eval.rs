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
    args::{EvalArgs, Format, GateMode},
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
    /// Digest of the validation data.
    pub validation_digest: String,
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
    }
    Ok(())
}

/// Evaluates the folder.
///
/// # Errors
/// As [`run`].
pub fn evaluate(args: &EvalArgs) -> anyhow::Result<Evaluation> {
    let mut model =
        Vit::open(&args.dir, Device::Cpu).map_err(|error| anyhow::anyhow!(chain(&error)))?;
    if let Some(budget) = args.budget {
        let moved = model.run_at(budget);
        moved.with_context(|| format!("{}: --budget", args.dir.display()))?;
    }
    let card = read_card(&args.dir)?;
    let data = data(args, model.config(), card.as_ref())?;
    let dims = &model.config().dims;
    let shape = Shape {
        channels: dims.channels as usize,
        image_size: dims.image_size as usize,
        classes: dims.classes as usize,
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
    let (mode, name) = match args.mode {
        GateMode::PerSample => (Mode::PerSample, "per-sample"),
        // A batch of one decides alone, and skips for it.
        GateMode::Shared if args.batch == 1 => (Mode::PerSample, "shared"),
        GateMode::Shared => (Mode::Shared(args.batch as usize), "shared"),
    };
    let measured = measure(&model, &validation, validation.len(), &[mode])?;
    let [measured] = measured.as_slice() else {
        bail!("one mode gave {} results", measured.len());
    };
    Ok(Evaluation {
        mode: name,
        batch: args.batch,
        budget: args.budget,
        accuracy: measured.accuracy(),
        correct: measured.correct,
        samples: measured.samples,
        macs: macs(model.config(), measured),
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
fn data(args: &EvalArgs, config: &Config, card: Option<&ReportCard>) -> anyhow::Result<Data> {
    let recorded = card.map(|card| PathBuf::from(&card.dataset.validation));
    let Some(folder) = args.data.clone().or(recorded) else {
        bail!(
            "{}: no report.json says which data to evaluate on; give --data",
            args.dir.display()
        );
    };
    let asked = args.format.map(|format| match format {
        Format::Idx => DataFormat::Idx,
        Format::Cifar => DataFormat::Cifar,
        Format::ImageFolder => DataFormat::ImageFolder,
        Format::WebDataset => DataFormat::WebDataset,
        Format::Parquet => DataFormat::Parquet,
    });
    let Some(format) = asked.or(card.map(|card| card.dataset.format)) else {
        bail!(
            "{}: no report.json says how the data is laid out; give --format",
            args.dir.display()
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
