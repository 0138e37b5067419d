//! `espalier checkpoint export`

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use espalier_onnx::ExportError;
use serde_json::json;

use crate::args::{ExportArgs, Global, Output};
use crate::exit::Failure;
use crate::output;

pub(super) async fn run(global: &Global, args: ExportArgs) -> Result<(), Failure> {
    let out = args.out.unwrap_or_else(|| args.folder.clone());
    let written = tokio::task::spawn_blocking(move || onnx(&args.folder, &out))
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

fn onnx(folder: &Path, out: &Path) -> Result<Vec<PathBuf>, Failure> {
    fs::create_dir_all(out)
        .with_context(|| format!("{}: cannot make the folder", out.display()))?;
    espalier_onnx::export(folder, out).map_err(|error| match error {
        ExportError::Io { .. } => Failure::Other(error.into()),
        refused => Failure::Usage(refused.to_string()),
    })
}
