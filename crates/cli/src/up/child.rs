//! A program that is started again whenever it ends.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use tokio::process::{Child, Command};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// A run shorter than this counts as a failed start.
const SHORT_RUN: Duration = Duration::from_secs(5);
/// Failed starts in a row after which the program is given up.
const MOST_FAILED_STARTS: u32 = 5;
/// Pause before a restart.
const PAUSE: Duration = Duration::from_millis(500);
/// Time to end by itself after being asked to.
const DRAIN: Duration = Duration::from_secs(8);

/// What to start.
pub(super) struct Program {
    /// Name for messages.
    pub name: String,
    /// The executable.
    pub path: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
}

/// Keeps `program` running until `stop` is cancelled, then ends it. Returns why it runs no more.
pub(super) async fn keep_running(program: Program, stop: CancellationToken) -> anyhow::Error {
    let mut failed_starts = 0;
    loop {
        let started = Instant::now();
        let mut child = match start(&program) {
            Ok(child) => child,
            Err(error) => return error,
        };
        let ended = tokio::select! {
            status = child.wait() => status,
            () = stop.cancelled() => {
                end(&program, child).await;
                return anyhow::anyhow!("{} was stopped", program.name);
            }
        };
        let how = match ended {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        };
        failed_starts = if started.elapsed() < SHORT_RUN {
            failed_starts + 1
        } else {
            0
        };
        if failed_starts >= MOST_FAILED_STARTS {
            return anyhow::anyhow!(
                "{} ended {failed_starts} times right after its start ({how})",
                program.name
            );
        }
        eprintln!("{} ended ({how}), starting it again", program.name);
        tokio::time::sleep(PAUSE).await;
    }
}

fn start(program: &Program) -> anyhow::Result<Child> {
    let child = Command::new(&program.path)
        .args(&program.args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        // Of its own group, so that the terminal's interrupt reaches it through us alone.
        .process_group(0)
        .spawn()
        .with_context(|| format!("starting {} ({})", program.name, program.path.display()))?;
    if let Some(pid) = child.id() {
        eprintln!("{} runs as process {pid}", program.name);
    }
    Ok(child)
}

/// Asks the program to end, and kills it if it does not.
async fn end(program: &Program, mut child: Child) {
    if let Some(pid) = child.id() {
        let asked = Command::new("kill").arg(pid.to_string()).status().await;
        if asked.is_ok_and(|status| status.success())
            && tokio::time::timeout(DRAIN, child.wait()).await.is_ok()
        {
            return;
        }
    }
    if let Err(error) = child.kill().await {
        eprintln!("{} could not be killed: {error}", program.name);
    }
}
