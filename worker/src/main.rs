//! `espalier-worker`: the agent of a node, its ranks, and the evaluation of a checkpoint.
#![forbid(unsafe_code)]

use std::io::IsTerminal as _;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;
use tracing_subscriber::EnvFilter;

use espalier_worker::args::{AgentArgs, Cli, Command};
use espalier_worker::{agent, bench, eval, latency_table, rank};

fn main() -> ExitCode {
    let cli = Cli::parse();
    start_logging();
    let result: anyhow::Result<()> = match cli.command {
        Command::Agent(args) => serve(args),
        Command::Rank(args) => rank::run(&args.socket, args.seat).map_err(Into::into),
        Command::Eval(args) => eval::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::LatencyTable(args) => latency_table::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Ranks and evaluations need no runtime, so only the agent makes one.
fn serve(args: AgentArgs) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("starting the runtime")?;
    runtime.block_on(agent::run(args))
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
