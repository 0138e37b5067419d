//! `espalier eval`: fetches the checkpoint if need be and has `espalier-worker eval` run it.

use std::path::Path;
use std::process::Stdio;

use anyhow::Context as _;
use clap::ValueEnum as _;
use serde_json::Value;
use tokio::process::Command;

use crate::args::{EvalArgs, GateMode, Global, Output};
use crate::exit::Failure;
use crate::located::Located;
use crate::{output, siblings};

pub(crate) async fn run(global: &Global, args: EvalArgs) -> Result<(), Failure> {
    let worker = siblings::find("espalier-worker")?;
    let located = Located::of(global, &args.target).await?;
    let result = evaluate(&worker, located.dir(), &args).await?;
    match global.output {
        Output::Json => output::json(&result),
        Output::Table => output::text(&summary(&result)),
    }
}

async fn evaluate(worker: &Path, dir: &Path, args: &EvalArgs) -> Result<Value, Failure> {
    let mut command = Command::new(worker);
    command.arg("eval").arg(dir).arg("--json");
    command.args(["--batch", &args.batch.to_string()]);
    command.arg("--mode").arg(match args.mode {
        GateMode::PerSample => "per-sample",
        GateMode::Shared => "shared",
    });
    if let Some(budget) = args.budget {
        command.args(["--budget", &budget.to_string()]);
    }
    command.args(["--precision", args.precision.name()]);
    if let Some(data) = &args.data {
        command.arg("--data").arg(data);
    }
    if let Some(format) = args.format.and_then(|format| format.to_possible_value()) {
        command.arg("--format").arg(format.get_name());
    }
    let output = command
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .with_context(|| format!("starting {}", worker.display()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let reason = said.trim().trim_start_matches("error: ");
        return Err(anyhow::anyhow!("evaluation failed ({}): {reason}", output.status).into());
    }
    let result =
        serde_json::from_slice(&output.stdout).context("reading the evaluation's result")?;
    Ok(result)
}

/// One line per figure, nested ones by their path.
fn summary(result: &Value) -> String {
    let rows: Vec<Vec<String>> = flatten("", result);
    output::table(&["FIGURE", "VALUE"], &rows)
}

fn flatten(path: &str, value: &Value) -> Vec<Vec<String>> {
    match value {
        Value::Object(fields) => fields
            .iter()
            .flat_map(|(key, inner)| {
                let separator = if path.is_empty() { "" } else { "." };
                flatten(&format!("{path}{separator}{key}"), inner)
            })
            .collect(),
        Value::String(text) => vec![vec![path.to_owned(), text.clone()]],
        other => vec![vec![path.to_owned(), other.to_string()]],
    }
}
