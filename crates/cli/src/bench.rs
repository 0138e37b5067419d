//! `espalier bench`: fetches the checkpoint if need be and has `espalier-worker bench` measure it.

use std::process::Stdio;

use anyhow::Context as _;
use clap::ValueEnum as _;
use tokio::process::Command;

use crate::args::{BenchArgs, Global, Output};
use crate::exit::Failure;
use crate::located::Located;
use crate::siblings;

pub(crate) async fn run(global: &Global, args: BenchArgs) -> Result<(), Failure> {
    let worker = siblings::find("espalier-worker")?;
    let located = Located::of(global, &args.target).await?;
    let list = |values: &[u32]| {
        let values: Vec<String> = values.iter().map(u32::to_string).collect();
        values.join(",")
    };
    let mut command = Command::new(&worker);
    command.arg("bench").arg(located.dir());
    command.args(["--batch", &list(&args.batch)]);
    command.args(["--threads", &list(&args.threads)]);
    command.args(["--precision", args.precision.name()]);
    if let Some(data) = &args.data {
        command.arg("--data").arg(data);
    }
    if let Some(format) = args.format.and_then(|format| format.to_possible_value()) {
        command.arg("--format").arg(format.get_name());
    }
    if let Output::Json = global.output {
        command.arg("--json");
    }
    // It takes minutes: what it says of its progress and prints at the end is for whoever waits.
    let status = command
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .status()
        .await
        .with_context(|| format!("starting {}", worker.display()))?;
    if !status.success() {
        return Err(anyhow::anyhow!("the benchmark failed ({status}); its reason is above").into());
    }
    Ok(())
}
