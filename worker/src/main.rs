//! `espalier-worker`: the agent of a node, its ranks, and the evaluation of a checkpoint.
#![forbid(unsafe_code)]

use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::Parser as _;
use tracing_subscriber::EnvFilter;

use espalier_worker::args::{Cli, Command};

fn main() -> ExitCode {
    let cli = Cli::parse();
    start_logging();
    let result: anyhow::Result<()> = match cli.command {
        Command::Agent(args) => Err(anyhow::anyhow!("agent is not linked in: {args:?}")),
        Command::Rank(args) => Err(anyhow::anyhow!("rank is not linked in: {args:?}")),
        Command::Eval(args) => Err(anyhow::anyhow!("eval is not linked in: {args:?}")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Logs go to stderr: the agent forwards a rank's stderr to the job's log.
fn start_logging() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
}
