//! Many seeds, each in a process of its own: what a process does depends on its seed alone.

use std::env;
use std::process::{Command, Output};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use anyhow::{Context as _, bail};
use espalier_mutants::VARIABLE as MUTANT;

/// Tells the simulated host its seed.
pub(crate) const SEED: &str = "ESPALIER_SIM_SEED";

/// The wrong variants: name, and what is broken.
pub(crate) const MUTANTS: [(&str, &str); 9] = [
    (
        "no-fence",
        "a leader's transactions do not compare its fence",
    ),
    (
        "stale-publish",
        "a checkpoint of a generation that is over is taken",
    ),
    (
        "blind-edit",
        "a job is written whatever was written since it was read",
    ),
    (
        "torn-read",
        "a job's record and its gang are taken as read, though written in between",
    ),
    (
        "submit-twice",
        "a request id that was used before is not looked for",
    ),
    (
        "early-answer",
        "a submit is acknowledged before it is stored",
    ),
    ("oversubscribed", "the scheduler counts used slots as free"),
    ("revoke-ignored", "an agent does not end what was revoked"),
    (
        "alias-first",
        "an alias is moved to a checkpoint whose manifest is not stored",
    ),
];

/// Runs a seed in a process of its own.
pub(crate) fn child(seed: u64, aloud: bool, mutant: Option<&str>) -> anyhow::Result<Command> {
    let mut command = Command::new(env::current_exe().context("finding this program")?);
    command.env(SEED, seed.to_string()).env_remove(MUTANT);
    command.arg("run").arg(seed.to_string());
    if aloud {
        command.arg("--aloud");
    }
    if let Some(mutant) = mutant {
        command.env(MUTANT, mutant);
    }
    Ok(command)
}

/// Runs seeds, so many at a time, until `enough` says so of one; gives how many were run.
fn sweep(
    (first, count): (u64, u64),
    at_a_time: usize,
    mutant: Option<&str>,
    enough: impl Fn(u64, &Output) -> bool + Sync,
) -> anyhow::Result<u64> {
    let next = AtomicU64::new(0);
    let failed: Mutex<anyhow::Result<()>> = Mutex::new(Ok(()));
    thread::scope(|scope| {
        for _ in 0..at_a_time.max(1) {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    if at >= count {
                        return;
                    }
                    let output = child(first + at, false, mutant)
                        .and_then(|mut child| child.output().context("starting a simulation"));
                    match output {
                        Ok(output) if !enough(first + at, &output) => {}
                        Ok(_) => next.store(count, Ordering::Relaxed),
                        Err(error) => {
                            next.store(count, Ordering::Relaxed);
                            *failed
                                .lock()
                                .unwrap_or_else(std::sync::PoisonError::into_inner) = Err(error);
                        }
                    }
                }
            });
        }
    });
    failed
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner)?;
    Ok(next.into_inner().min(count))
}

/// Runs many seeds and tells of those that fail.
///
/// # Errors
/// How many failed.
pub(crate) fn many(first: u64, count: u64, at_a_time: usize) -> anyhow::Result<()> {
    let failures = AtomicU64::new(0);
    sweep((first, count), at_a_time, None, |_, output| {
        if !output.status.success() {
            failures.fetch_add(1, Ordering::Relaxed);
            println!("{}", String::from_utf8_lossy(&output.stderr));
        }
        false
    })?;
    match failures.into_inner() {
        0 => {
            println!("{count} seeds from {first}: every invariant held");
            Ok(())
        }
        failures => bail!("{failures} of {count} seeds from {first} failed"),
    }
}

/// Runs the wrong variants until each is caught.
///
/// # Errors
/// Those that were not, within so many seeds.
pub(crate) fn mutants(count: u64, at_a_time: usize, only: Option<&str>) -> anyhow::Result<()> {
    let mut missed = Vec::new();
    let chosen = |(name, _): &&(&str, &str)| only.is_none_or(|only| only == *name);
    for (name, what) in MUTANTS.iter().filter(chosen) {
        let caught = Mutex::new(None);
        sweep((0, count), at_a_time, Some(name), |seed, output| {
            if output.status.success() {
                return false;
            }
            let text = String::from_utf8_lossy(&output.stderr);
            let why = text.lines().next().unwrap_or_default().to_owned();
            let mut caught = caught
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            caught.get_or_insert((seed, why));
            true
        })?;
        let caught = caught
            .into_inner()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        match caught {
            Some((seed, why)) => println!("caught  {name} ({what}) by seed {seed}: {why}"),
            None => {
                println!("MISSED  {name} ({what}) by {count} seeds");
                missed.push(*name);
            }
        }
    }
    if missed.is_empty() {
        return Ok(());
    }
    bail!("not caught: {}", missed.join(", "))
}
