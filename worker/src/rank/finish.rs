//! After the last step, on rank 0: calibrate the gates, measure, and hand over the model.

use std::path::Path;

use espalier_onnx::ExportError;
use espalier_vit::{Cost, Vit};

use super::{
    calibrate::{Calibration, calibrate},
    checkpoint::{publish, write, write_failed, write_json},
    error::TrainError,
    gates::{gated, one_sided},
    measure::{Mode, measure},
    observer::Observer,
    prepare::Prepared,
    readme::readme,
    report::{report, size_of_dense},
    trainer::Trainer,
};
use crate::ipc::CheckpointKind;

/// Samples of the calibration split that the threshold is found on.
const CALIBRATED: usize = 2000;
/// How far hard MACs may be off the target before people are told, as a share of the target.
const NOTABLE_MISS: f64 = 0.01;

/// Hands over the finished model with its report card.
///
/// # Errors
/// Images that cannot be read, a folder that cannot be written, nobody to hand it to.
pub(super) fn finish(
    prepared: &Prepared,
    trainer: Trainer<'_>,
    observer: &mut dyn Observer,
) -> Result<(), TrainError> {
    let step = trainer.step();
    let cost = *trainer.cost();
    let mut model = trainer.into_model();
    if gated(&model) {
        let found = set_threshold(prepared, &mut model, &cost)?;
        tracing::info!(
            threshold = found.threshold,
            ratio = found.ratio,
            "calibrated the gates"
        );
        let target = prepared.job.compress.target;
        if (found.ratio - target).abs() > NOTABLE_MISS * target {
            observer.warning(format!(
                "no threshold of the gates brings hard MACs to {target}: the nearest has {:.4}",
                found.ratio
            ))?;
        }
        warn_of_collapse(prepared, &model, observer)?;
    }

    let folder = observer.folder().join(format!("model-{step}"));
    publish(&folder, |partial| {
        model
            .save(partial)
            .map_err(|error| write_failed(partial, &error))?;
        let onnx = prepared.job.publish.onnx && export(partial, observer)?;
        describe(partial, prepared, &model, &cost, step, onnx)
    })?;
    observer.checkpoint(step, folder, CheckpointKind::Model)
}

/// Writes the ONNX files of the model in `folder`; false, with a warning, when the model has none: it
/// is still a model.
fn export(folder: &Path, observer: &mut dyn Observer) -> Result<bool, TrainError> {
    match espalier_onnx::export(folder, folder) {
        Ok(_) => Ok(true),
        Err(ExportError::Io { path, source, .. }) => Err(TrainError::Write { path, source }),
        Err(refused) => {
            observer.warning(format!("the model is published without ONNX: {refused}"))?;
            Ok(false)
        }
    }
}

/// Measures the model in `folder` and adds its report card and its README.
fn describe(
    folder: &Path,
    prepared: &Prepared,
    model: &Vit,
    cost: &Cost,
    step: u64,
    onnx: bool,
) -> Result<(), TrainError> {
    let bytes_dense =
        size_of_dense(folder, model.config()).map_err(|error| write_failed(folder, &error))?;
    let card = report(prepared, model, cost, folder, bytes_dense, step)?;
    write_json(&folder.join("report.json"), &card)?;
    write(
        &folder.join("README.md"),
        readme(prepared, model, &card, onnx).as_bytes(),
    )
}

fn set_threshold(
    prepared: &Prepared,
    model: &mut Vit,
    cost: &Cost,
) -> Result<Calibration, TrainError> {
    let calibration = &prepared.splits.calibration;
    let found = calibrate(prepared.job.compress.target, |threshold| {
        model.set_threshold(threshold);
        let measured = measure(model, calibration, CALIBRATED, &[Mode::PerSample])?;
        let rates = measured[0].rates();
        let macs = cost.effective(&model.config().structure, |module| rates[module]);
        Ok(macs / cost.dense())
    })
    .map_err(TrainError::Data)?;
    model.set_threshold(found.threshold);
    Ok(found)
}

/// Tells of gates that do not look at their input at all.
fn warn_of_collapse(
    prepared: &Prepared,
    model: &Vit,
    observer: &mut dyn Observer,
) -> Result<(), TrainError> {
    let calibration = &prepared.splits.calibration;
    let measured =
        measure(model, calibration, CALIBRATED, &[Mode::PerSample]).map_err(TrainError::Data)?;
    match one_sided(model.config(), &measured[0].rates()) {
        Some(reason) => observer.warning(reason),
        None => Ok(()),
    }
}
