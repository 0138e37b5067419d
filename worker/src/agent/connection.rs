//! The agent's end of the ranks' socket.

use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::push::PushError;
use super::roster::Exit;
use crate::ipc::{FromRank, IpcError, MAX_LINE, ToRank, decode, encode};

/// Time for a connection to say hello, and for a rank to take a message.
const PROMPT: Duration = Duration::from_secs(10);
/// Connections served at a time; a gang has far fewer ranks.
const CONNECTIONS: usize = 2048;

/// What happens to a gang.
pub(super) enum Event {
    /// A rank said hello.
    Connected { rank: u32, sender: Sender },
    /// A rank said something.
    Said { rank: u32, message: FromRank },
    /// A rank's connection has ended, after everything it said.
    Disconnected { rank: u32 },
    /// A rank's process has ended.
    Exited { rank: u32, exit: Exit },
    /// A checkpoint was pushed, or not.
    Pushed {
        step: u64,
        result: Result<String, PushError>,
    },
}

/// The way to a rank.
pub(super) struct Sender(OwnedWriteHalf);

impl Sender {
    /// Sends a message; a rank that does not take it in time is as good as gone.
    pub(super) async fn send(&mut self, message: &ToRank) -> Result<(), IpcError> {
        let line = encode(message)?;
        match timeout(PROMPT, self.0.write_all(&line)).await {
            Ok(written) => Ok(written?),
            Err(_) => Err(IpcError::Io(std::io::ErrorKind::TimedOut.into())),
        }
    }
}

/// Serves connections until dropped.
pub(super) async fn accept(listener: UnixListener, events: mpsc::Sender<Event>) {
    let mut served = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if served.len() < CONNECTIONS => match accepted {
                Ok((stream, _)) => {
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

async fn serve(stream: UnixStream, events: mpsc::Sender<Event>) {
    let (reader, writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    let rank = match timeout(PROMPT, read(&mut reader)).await {
        Ok(Ok(Some(FromRank::Hello { rank }))) => rank,
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
        .send(Event::Connected { rank, sender })
        .await
        .is_err()
    {
        return;
    }
    loop {
        match read(&mut reader).await {
            Ok(Some(message)) => {
                if events.send(Event::Said { rank, message }).await.is_err() {
                    return;
                }
            }
            Ok(None) => break,
            Err(error) => {
                tracing::warn!(rank, %error, "connection failed");
                break;
            }
        }
    }
    let _ = events.send(Event::Disconnected { rank }).await;
}

async fn read(reader: &mut BufReader<OwnedReadHalf>) -> Result<Option<FromRank>, IpcError> {
    let mut line = Vec::new();
    reader
        .take(MAX_LINE as u64)
        .read_until(b'\n', &mut line)
        .await?;
    decode(&line)
}
