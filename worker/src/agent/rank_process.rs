//! A rank's process: started, its output read, and killed on request.

use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitStatus, Stdio};

use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

use super::connection::SOCKET;
use super::logs;
use super::outside::{Exit, Logs, Spawn};
use crate::args::Device;

/// Starts the process. The future ends when the process has ended and its output was read; it is
/// killed when `kill` is cancelled, or the future is dropped.
pub(super) fn start(
    spawn: &Spawn<'_>,
    told: Logs,
    kill: CancellationToken,
) -> io::Result<impl Future<Output = Exit> + Send + 'static> {
    let mut command = own_program()?;
    command
        .arg("rank")
        .arg("--socket")
        // The name alone: the whole path may be longer than the kernel takes for a socket.
        .arg(SOCKET)
        .current_dir(spawn.run_dir)
        .args(["--seat", &spawn.seat.to_string()])
        // One thread per rank: more would fight for the cores of the other ranks.
        .env("OMP_NUM_THREADS", "1")
        // Ranks speak to the agent alone.
        .env_remove("ESPALIER_TOKEN")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    if spawn.device == Device::Cuda {
        command.env("CUDA_VISIBLE_DEVICES", spawn.slot.to_string());
    }
    let mut child = command.spawn()?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    Ok(async move {
        let (lines, queue) = logs::queue();
        let read_stdout = {
            let lines = lines.clone();
            async move {
                if let Some(pipe) = stdout {
                    lines.read(pipe).await;
                }
            }
        };
        let read_stderr = async move {
            match stderr {
                Some(pipe) => lines.read(pipe).await,
                None => None,
            }
        };
        let report = logs::batch(queue, told);
        let (status, (), last_line, ()) =
            tokio::join!(ended(&mut child, &kill), read_stdout, read_stderr, report);
        Exit { status, last_line }
    })
}

/// The agent's own program, as it was when the agent started: an upgrade may have put another one in its
/// place, or none yet, and ranks of another version than their agent's are not to run.
fn own_program() -> io::Result<Command> {
    let path = std::env::current_exe()?;
    if path.exists() {
        return Ok(Command::new(path));
    }
    let mut command = Command::new("/proc/self/exe");
    command.arg0(path);
    Ok(command)
}

async fn ended(child: &mut Child, kill: &CancellationToken) -> String {
    let status = tokio::select! {
        status = child.wait() => status,
        () = kill.cancelled() => match child.start_kill() {
            Ok(()) => child.wait().await,
            Err(error) => Err(error),
        },
    };
    match status {
        Ok(status) => in_words(status),
        Err(error) => format!("an unknown status ({error})"),
    }
}

fn in_words(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => status.to_string(),
    }
}
