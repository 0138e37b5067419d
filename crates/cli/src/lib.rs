//! The `espalier` command: thin over the gRPC services; stdout is data, stderr the rest.
#![forbid(unsafe_code)]

pub mod args;
mod bench;
mod checkpoint;
mod connect;
mod eval;
pub mod exit;
mod follow;
mod job;
mod located;
mod output;
mod progress;
mod queue;
mod registry;
mod report;
mod siblings;
mod token;
mod up;
mod worker;

use args::{Cli, Command};
use clap::CommandFactory as _;
use exit::Failure;

/// Runs a command.
///
/// # Errors
/// A [`Failure`] says what went wrong, for people, and which exit code it means.
pub async fn run(cli: Cli) -> Result<(), Failure> {
    let global = &cli.global;
    match cli.command {
        Command::Up(args) => up::run(global, args).await,
        Command::Job(command) => job::run(global, command).await,
        Command::Checkpoint(command) => checkpoint::run(global, command).await,
        Command::Registry(command) => registry::run(global, command).await,
        Command::Eval(args) => eval::run(global, args).await,
        Command::Bench(args) => bench::run(global, args).await,
        Command::Worker(command) => worker::run(global, command).await,
        Command::Queue(command) => queue::run(global, command).await,
        Command::Token(command) => token::run(global, command).await,
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "espalier", &mut script);
            output::text(&String::from_utf8_lossy(&script))
        }
    }
}
