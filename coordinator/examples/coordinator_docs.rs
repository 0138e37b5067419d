//! Writes `docs/jobs-states.md` from the table of the job's states.

use espalier_coordinator::job::states;

fn main() -> std::io::Result<()> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/jobs-states.md");
    std::fs::write(path, states::markdown())
}
