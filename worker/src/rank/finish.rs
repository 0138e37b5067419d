//! After the last step, on rank 0: settle the gates, measure, and hand over the model.

use std::path::Path;

use espalier_onnx::ExportError;
use espalier_vit::Vit;

use super::{
    budgets::frontier,
    card::{BudgetCard, ReportCard},
    checkpoint::{publish, write, write_failed, write_json},
    error::TrainError,
    gates::{gated, warnings},
    observer::Observer,
    prepare::Prepared,
    readme::readme,
    report::{report, size_of_dense},
    settle::settle,
    trainer::Trainer,
};
use crate::ipc::CheckpointKind;

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
    let mut model = trainer.into_model();
    let cost = prepared.cost(model.config().gate.as_ref());
    if gated(&model) {
        let found = settle(prepared, &mut model, &cost)?;
        tracing::info!(
            threshold = found.threshold,
            ratio = found.ratio,
            "settled the gates"
        );
    }
    let frontier = frontier(prepared, &mut model, &cost)?;
    let folder = observer.folder().join(format!("model-{step}"));
    publish(&folder, |partial| {
        model
            .save(partial)
            .map_err(|error| write_failed(partial, &error))?;
        let onnx = prepared.job.publish.onnx && export(partial, observer)?;
        let card = describe(partial, prepared, &model, step, onnx, frontier)?;
        warnings(&prepared.job.compress, model.config(), &card)
            .into_iter()
            .try_for_each(|reason| observer.warning(reason))
    })?;
    observer.checkpoint(step, folder, CheckpointKind::Model)
}

/// Writes the ONNX files of the model in `folder`; false, with a warning, when the model has none: it
/// is still a model.
fn export(folder: &Path, observer: &mut dyn Observer) -> Result<bool, TrainError> {
    match espalier_onnx::export(folder, folder, None) {
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
    step: u64,
    onnx: bool,
    frontier: Vec<BudgetCard>,
) -> Result<ReportCard, TrainError> {
    let bytes_dense =
        size_of_dense(folder, model.config()).map_err(|error| write_failed(folder, &error))?;
    let card = report(prepared, model, folder, bytes_dense, step, frontier)?;
    write_json(&folder.join("report.json"), &card)?;
    write(
        &folder.join("README.md"),
        readme(prepared, model, &card, onnx).as_bytes(),
    )?;
    Ok(card)
}
