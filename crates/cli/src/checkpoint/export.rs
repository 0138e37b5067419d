//! `espalier checkpoint export`

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use espalier_layout::LayoutError;
use espalier_onnx::ExportError;
use serde_json::json;

use crate::args::{ExportArgs, Global, Layout, Output};
use crate::exit::Failure;
use crate::output;

pub(super) async fn run(global: &Global, args: ExportArgs) -> Result<(), Failure> {
    let written = tokio::task::spawn_blocking(move || write(&args))
        .await
        .context("exporting the checkpoint")??;
    match global.output {
        Output::Json => output::json(&json!({ "files": written })),
        Output::Table => {
            let lines: Vec<String> = written.iter().map(|p| p.display().to_string()).collect();
            output::text(&lines.join("\n"))
        }
    }
}

fn write(args: &ExportArgs) -> Result<Vec<PathBuf>, Failure> {
    let ExportArgs {
        folder,
        layout,
        out,
        budget,
        ..
    } = args;
    match layout {
        None => onnx(folder, out.as_ref().unwrap_or(folder), *budget),
        Some(Layout::Timm) => laid_out(folder, out, espalier_layout::Layout::Timm, "timm"),
        Some(Layout::Hf) => laid_out(folder, out, espalier_layout::Layout::HuggingFace, "hf"),
    }
}

fn onnx(folder: &Path, out: &Path, budget: Option<f64>) -> Result<Vec<PathBuf>, Failure> {
    fs::create_dir_all(out)
        .with_context(|| format!("{}: cannot make the folder", out.display()))?;
    espalier_onnx::export(folder, out, budget).map_err(|error| match error {
        ExportError::Io { .. } => Failure::Other(error.into()),
        refused => Failure::Usage(refused.to_string()),
    })
}

fn laid_out(
    folder: &Path,
    out: &Option<PathBuf>,
    layout: espalier_layout::Layout,
    name: &str,
) -> Result<Vec<PathBuf>, Failure> {
    let out = out.clone().unwrap_or_else(|| folder.join(name));
    espalier_layout::export(folder, &out, layout).map_err(|error| match error {
        LayoutError::Io { .. } => Failure::Other(error.into()),
        refused => Failure::Usage(refused.to_string()),
    })
}
