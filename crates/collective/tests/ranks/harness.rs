//! Starts ranks as processes and talks to them in lines.
//!
//! The parent writes a rank's place on its standard input; the rank answers on its standard output,
//! each line after a mark that sets it apart from what the test runner prints.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// The scenario of a rank process.
pub(crate) const SCENARIO: &str = "ESPALIER_COLLECTIVE_SCENARIO";

const MARK: &str = "@ ";

/// Says a line to the parent.
pub(crate) fn tell(line: &str) {
    // The test runner may have left its own line open.
    println!("\n{MARK}{line}");
}

/// Waits for the parent's next line.
pub(crate) fn hear() -> String {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    assert!(!line.is_empty(), "the parent is gone");
    line.trim_end().to_owned()
}

/// A rank's process, killed at the end.
pub(crate) struct Rank {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Rank {
    fn start(scenario: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "rank_process", "--nocapture", "--test-threads=1"])
            .env(SCENARIO, scenario)
            .env("OMP_NUM_THREADS", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            input: child.stdin.take().unwrap(),
            output: BufReader::new(child.stdout.take().unwrap()),
            child,
        }
    }

    /// The next line that the rank says.
    pub(crate) fn line(&mut self) -> String {
        let mut heard = String::new();
        loop {
            let mut line = String::new();
            let read = self.output.read_line(&mut line).unwrap();
            assert!(read > 0, "the rank ended after saying\n{heard}");
            if let Some(said) = line.strip_prefix(MARK) {
                return said.trim_end().to_owned();
            }
            heard.push_str(&line);
        }
    }

    pub(crate) fn say(&mut self, line: &str) {
        writeln!(self.input, "{line}").unwrap();
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGSTOP.
    pub(crate) fn stop(&mut self) {
        let command = format!("kill -STOP {}", self.child.id());
        let status = Command::new("sh").args(["-c", &command]).status().unwrap();
        assert!(status.success());
    }
}

impl Drop for Rank {
    fn drop(&mut self) {
        // Most have ended by themselves.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Starts all ranks of a group of `world_size`.
pub(crate) fn start(scenario: &str, world_size: usize) -> Vec<Rank> {
    let all: Vec<usize> = (0..world_size).collect();
    start_some(scenario, world_size, &all)
}

/// Starts some ranks of a group of `world_size`, rank 0 among them.
pub(crate) fn start_some(scenario: &str, world_size: usize, which: &[usize]) -> Vec<Rank> {
    let mut ranks: Vec<Rank> = which.iter().map(|_| Rank::start(scenario)).collect();
    place(&mut ranks, which, world_size);
    ranks
}

/// Gives running processes their places in a group of just themselves.
pub(crate) fn regroup(ranks: &mut [Rank]) {
    let all: Vec<usize> = (0..ranks.len()).collect();
    let world_size = ranks.len();
    place(ranks, &all, world_size);
}

fn place(ranks: &mut [Rank], which: &[usize], world_size: usize) {
    let (host, others) = ranks.split_first_mut().unwrap();
    host.say(&format!("0 {world_size} host"));
    let address = host.line();
    for (process, rank) in others.iter_mut().zip(&which[1..]) {
        process.say(&format!("{rank} {world_size} {address}"));
    }
}
