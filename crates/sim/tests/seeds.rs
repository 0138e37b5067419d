//! Clusters under the faults of many seeds: every invariant holds, and a seed means one history.
#![forbid(unsafe_code)]
// The exemption for tests does not reach their helpers.
#![allow(clippy::unwrap_used)]

use std::process::{Command, Output};

/// Run each time; `make sim` runs more.
const SEEDS: u64 = 200;

fn sim(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_espalier-sim"));
    command.args(arguments).env_remove("RUST_LOG");
    command.output().unwrap()
}

#[track_caller]
fn succeeds(arguments: &[&str]) -> String {
    let output = sim(arguments);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success(),
        "{text}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

/// How many are run at a time changes nothing: each is a process of its own, whose time stands still.
fn at_a_time() -> String {
    std::thread::available_parallelism()
        .map_or(1, usize::from)
        .to_string()
}

#[test]
fn every_invariant_holds_whatever_goes_wrong() {
    let (seeds, at_a_time) = (SEEDS.to_string(), at_a_time());
    succeeds(&["many", "--seeds", &seeds, "--at-a-time", &at_a_time]);
}

#[test]
fn a_seed_means_one_history() {
    for seed in ["2", "7", "16"] {
        let first = succeeds(&["run", seed]);
        assert!(first.contains("digest "), "{first}");
        assert_eq!(first, succeeds(&["run", seed]));
    }
}

#[test]
fn seeds_differ() {
    let digest = |seed: &str| {
        let text = succeeds(&["run", seed]);
        text.rsplit("digest ").next().map(str::to_owned)
    };
    assert_ne!(digest("3"), digest("4"));
}

/// The wrong variants are only in a program that was built with them: `make sim-mutants`.
#[test]
#[cfg(feature = "mutants")]
fn every_wrong_variant_is_caught() {
    succeeds(&["mutants", "--seeds", "200", "--at-a-time", &at_a_time()]);
}
