//! The agent's end of the ranks' socket.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{
    AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, ReadHalf, WriteHalf,
    split,
};
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::outside::{Duplex, Exit, Listener};
use super::push::PushError;
use crate::ipc::{CheckpointKind, FromRank, IpcError, MAX_LINE, ToRank, decode, encode};

/// Time for a connection to say hello, and for a rank to take a message.
const PROMPT: Duration = Duration::from_secs(10);
/// The socket's name in the gang's folder.
pub(super) const SOCKET: &str = "agent.sock";
/// Connections served at a time; a gang has far fewer ranks.
const CONNECTIONS: usize = 2048;

/// What happens to a gang.
pub(super) enum Event {
    /// A rank said hello.
    Connected { seat: u64, sender: Sender },
    /// A rank said something.
    Said { seat: u64, message: FromRank },
    /// A rank's connection has ended, after everything it said.
    Disconnected { seat: u64 },
    /// A rank's process has ended.
    Exited { seat: u64, exit: Exit },
    /// A checkpoint was pushed, or not.
    Pushed {
        handed: Handed,
        generation: u64,
        result: Result<String, PushError>,
    },
}

/// A checkpoint that a rank handed over.
#[derive(Clone, Debug)]
pub(super) struct Handed {
    /// Who did.
    pub(super) seat: u64,
    /// Last step in it.
    pub(super) step: u64,
    /// The folder.
    pub(super) dir: PathBuf,
    /// What it holds.
    pub(super) kind: CheckpointKind,
}

/// The way to a rank.
pub(super) struct Sender(WriteHalf<Box<dyn Duplex>>);

impl Sender {
    /// Sends a message; a rank that does not take it in time is as good as gone.
    pub(super) async fn send(&mut self, message: &ToRank) -> Result<(), IpcError> {
        let line = encode(message)?;
        match timeout(PROMPT, self.0.write_all(&line)).await {
            Ok(written) => Ok(written?),
            Err(_) => Err(IpcError::Io(io::ErrorKind::TimedOut.into())),
        }
    }
}

/// Listens in the gang's folder.
///
/// # Errors
/// When the folder cannot be opened, or has such a socket.
pub(super) fn listen(run_dir: &Path) -> io::Result<UnixListener> {
    let folder = File::open(run_dir)?;
    UnixListener::bind(short_path(&folder))
}

/// The socket by way of an open folder: the kernel takes no socket path over 107 bytes, and folders
/// of workers can be deeper.
fn short_path(folder: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd())).join(SOCKET)
}

/// Serves connections until dropped.
pub(super) async fn accept(mut listener: Box<dyn Listener>, events: mpsc::Sender<Event>) {
    let mut served = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if served.len() < CONNECTIONS => match accepted {
                Ok(stream) => {
                    served.spawn(serve(stream, events.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a rank's connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            Some(_) = served.join_next() => {}
        }
    }
}

async fn serve(stream: Box<dyn Duplex>, events: mpsc::Sender<Event>) {
    let (reader, writer) = split(stream);
    let mut reader = BufReader::new(reader);
    let seat = match timeout(PROMPT, read(&mut reader)).await {
        Ok(Ok(Some(FromRank::Hello { seat }))) => seat,
        Ok(Err(error)) => {
            tracing::warn!(%error, "connection without a hello");
            return;
        }
        Ok(Ok(_)) | Err(_) => {
            tracing::warn!("connection without a hello");
            return;
        }
    };
    let sender = Sender(writer);
    // The receiver is gone only when the gang is being dropped.
    if events
        .send(Event::Connected { seat, sender })
        .await
        .is_err()
    {
        return;
    }
    loop {
        match read(&mut reader).await {
            Ok(Some(message)) => {
                if events.send(Event::Said { seat, message }).await.is_err() {
                    return;
                }
            }
            Ok(None) => break,
            Err(error) => {
                tracing::warn!(seat, %error, "connection failed");
                break;
            }
        }
    }
    let _ = events.send(Event::Disconnected { seat }).await;
}

async fn read(
    reader: &mut BufReader<ReadHalf<Box<dyn Duplex>>>,
) -> Result<Option<FromRank>, IpcError> {
    let mut line = Vec::new();
    reader
        .take(MAX_LINE as u64)
        .read_until(b'\n', &mut line)
        .await?;
    decode(&line)
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixStream;

    use super::*;

    #[tokio::test]
    async fn a_folder_deeper_than_a_socket_path_serves() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("deep-folder/".repeat(20));
        std::fs::create_dir_all(&deep).unwrap();
        let listener = listen(&deep).unwrap();
        assert!(deep.join(SOCKET).exists());

        let (events, mut received) = mpsc::channel(4);
        let mut served = JoinSet::new();
        served.spawn(accept(Box::new(listener), events));
        let folder = File::open(&deep).unwrap();
        let mut rank = UnixStream::connect(short_path(&folder)).await.unwrap();
        for message in [FromRank::Hello { seat: 3 }, FromRank::Done] {
            rank.write_all(&encode(&message).unwrap()).await.unwrap();
        }
        drop(rank);
        let Some(Event::Connected { seat: 3, .. }) = received.recv().await else {
            panic!("no connection of seat 3");
        };
        let Some(Event::Said { seat: 3, message }) = received.recv().await else {
            panic!("nothing was said");
        };
        assert_eq!(message, FromRank::Done);
        let end = received.recv().await;
        assert!(matches!(end, Some(Event::Disconnected { seat: 3 })));
    }
}
