//! `espalier-sim`: coordinators, their store and agents in one process, under a simulated clock and on a
//! hostile network, as a seed says; docs/simulation.md.
#![forbid(unsafe_code)]

mod checks;
mod client;
mod fabric;
mod journal;
mod ledger;
mod net;
mod outside;
mod plan;
mod rank;
mod seeds;
mod world;

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use tokio::time::Instant;
use tracing_subscriber::EnvFilter;

use journal::{Elapsed, Journal};
use plan::Plan;

/// Simulate clusters, each from a seed.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run one seed.
    Run {
        /// The seed.
        seed: u64,
        /// Print what is logged as it comes.
        #[arg(long)]
        aloud: bool,
    },
    /// Print what a seed means.
    Plan {
        /// The seed.
        seed: u64,
    },
    /// Run many seeds.
    Many {
        /// The first.
        #[arg(long, default_value_t = 0)]
        first: u64,
        /// How many.
        #[arg(long, default_value_t = 200)]
        seeds: u64,
        /// How many at a time.
        #[arg(long, default_value_t = 1)]
        at_a_time: usize,
    },
    /// Run the deliberately wrong variants of the product until each is caught.
    Mutants {
        /// Seeds that are tried for each.
        #[arg(long, default_value_t = 200)]
        seeds: u64,
        /// How many at a time.
        #[arg(long, default_value_t = 1)]
        at_a_time: usize,
        /// This one alone.
        #[arg(long)]
        only: Option<String>,
    },
}

fn main() -> anyhow::Result<ExitCode> {
    match Cli::parse().command {
        Command::Run { seed, aloud } => {
            if std::env::var(seeds::SEED).is_ok_and(|known| known == seed.to_string()) {
                return simulate(seed, aloud);
            }
            let mutant = std::env::var(espalier_mutants::VARIABLE).ok();
            let status = seeds::child(seed, aloud, mutant.as_deref())?
                .status()
                .context("starting a simulation")?;
            if !status.success() {
                return Ok(ExitCode::FAILURE);
            }
        }
        Command::Plan { seed } => println!("{}", Plan::of(seed)),
        Command::Many {
            first,
            seeds,
            at_a_time,
        } => seeds::many(first, seeds, at_a_time)?,
        Command::Mutants {
            seeds,
            at_a_time,
            only,
        } => {
            anyhow::ensure!(
                cfg!(feature = "mutants"),
                "this program was built without its wrong variants: build it with --features mutants"
            );
            seeds::mutants(seeds, at_a_time, only.as_deref())?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs a seed on the simulated host.
fn simulate(seed: u64, aloud: bool) -> anyhow::Result<ExitCode> {
    let plan = Plan::of(seed);
    let memory = Path::new("/dev/shm");
    // Random names follow the seed: of two processes with the same seed one would have to try again, and
    // draw more than the other.
    let mut folder = tempfile::Builder::new();
    let prefix = format!("espalier-sim-{:010}-", std::process::id());
    folder.prefix(&prefix);
    let dir = if memory.is_dir() {
        folder.tempdir_in(memory)
    } else {
        folder.tempdir()
    };
    let dir = dir.context("making a folder")?;
    let path = dir.path().canonicalize().context("finding the folder")?;
    // One thread: the simulated host has but one.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    let start = Instant::now();
    let journal = Journal::new(aloud, path.display().to_string());
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new("info,h2=off,hyper=off,tonic=off"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .with_timer(Elapsed(start))
        .with_writer(journal.clone())
        .init();
    let result = runtime.block_on(world::run(&plan, &path, &journal));
    let simulated = start.elapsed().as_secs_f64();
    // Tasks that wait for what never comes end here.
    drop(runtime);
    match result {
        Ok(told) => {
            println!(
                "seed {seed}: all held in {simulated:.1} s; {told}; digest {:016x}",
                journal.result()
            );
            Ok(ExitCode::SUCCESS)
        }
        Err(what) => {
            eprintln!("seed {seed}, after {simulated:.3} s: {what}\n\n{plan}\n");
            eprintln!("the last that was logged:");
            for line in journal.last() {
                eprint!("{line}");
            }
            eprintln!("\nrun it again: cargo run -p espalier-sim -- run {seed} --aloud");
            Ok(ExitCode::FAILURE)
        }
    }
}
