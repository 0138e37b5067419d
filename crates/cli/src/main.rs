//! `espalier`: submits jobs, shows how they go and fetches checkpoints, over gRPC.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser as _;
use espalier_cli::args::Cli;

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = tokio::select! {
        outcome = espalier_cli::run(cli) => outcome,
        _ = tokio::signal::ctrl_c() => Err(espalier_cli::exit::Failure::Interrupted),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            failure.code()
        }
    }
}
