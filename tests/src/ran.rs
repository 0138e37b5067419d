use std::process::{Command, Output, Stdio};
use std::sync::mpsc::channel;
use std::thread;

use crate::cluster::{Cluster, PATIENCE};

/// What a run of a program gave.
#[derive(Debug)]
pub struct Ran {
    /// Exit code; -1 when a signal ended it.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Ran {
    /// Runs a program to its end, which must come within the patience of all waits.
    #[track_caller]
    pub fn of(command: &mut Command) -> Self {
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("starting {command:?}: {error}"));
        let pid = child.id();
        let (ended, end) = channel();
        let reader = thread::spawn(move || ended.send(child.wait_with_output()));
        let output = end.recv_timeout(PATIENCE);
        if output.is_err() {
            Cluster::kill_process(pid);
        }
        // It has ended, by itself or just now; nobody listens in the second case.
        let _ = reader.join();
        match output {
            Ok(output) => Self::from(output.unwrap()),
            Err(_) => panic!("{command:?} did not end in {} s", PATIENCE.as_secs()),
        }
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}
