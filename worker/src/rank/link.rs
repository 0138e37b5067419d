//! The rank's end of the socket to its agent: JSON lines, see `crate::ipc`.

use std::{
    io::BufReader,
    net::Shutdown,
    os::unix::net::UnixStream,
    path::Path,
    process,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use crate::ipc::{self, FromRank, IpcError, Start, ToRank};

/// Messages read ahead. The agent sends at most one for each thing that the rank waits for.
const INBOX: usize = 16;
/// How long the agent may leave the socket's buffer full.
const WRITE_DEADLINE: Duration = Duration::from_secs(60);

/// The connection is of no use any more: the agent is gone, stuck, or of another version.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The socket could not be opened.
    #[error("cannot reach the agent at {path}: {source}")]
    Connect {
        /// The socket.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// A message could not be sent.
    #[error("cannot tell the agent: {0}")]
    Send(IpcError),
    /// The agent sent nothing in time.
    #[error("the agent did not send {what} within {} s", deadline.as_secs())]
    Silent {
        /// What was waited for.
        what: &'static str,
        /// How long.
        deadline: Duration,
    },
    /// The agent sent something else.
    #[error("the agent sent {got} where {what} was due")]
    Unexpected {
        /// What was waited for.
        what: &'static str,
        /// What came.
        got: String,
    },
    /// The reader has ended.
    #[error("the agent closed the connection")]
    Closed,
}

/// The connection. The process exits as soon as the agent closes it: a rank without an agent must
/// not go on.
#[derive(Debug)]
pub struct Link {
    stream: UnixStream,
    inbox: Receiver<ToRank>,
    closing: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
}

impl Link {
    /// Connects to the agent's socket and starts reading.
    pub fn connect(path: &Path) -> Result<Self, LinkError> {
        let failed = |source| LinkError::Connect {
            path: path.display().to_string(),
            source,
        };
        let stream = UnixStream::connect(path).map_err(failed)?;
        stream
            .set_write_timeout(Some(WRITE_DEADLINE))
            .map_err(failed)?;
        let (sender, inbox) = sync_channel(INBOX);
        let closing = Arc::new(AtomicBool::new(false));
        let input = stream.try_clone().map_err(failed)?;
        let reader = thread::Builder::new()
            .name("agent-reader".to_owned())
            .spawn({
                let closing = Arc::clone(&closing);
                move || {
                    let end = read(input, &sender);
                    if !closing.load(Ordering::Acquire) {
                        tracing::error!(reason = end, "lost the agent");
                        process::exit(1);
                    }
                }
            })
            .map_err(failed)?;
        Ok(Self {
            stream,
            inbox,
            closing,
            reader: Some(reader),
        })
    }

    /// Sends a message.
    pub fn send(&self, message: &FromRank) -> Result<(), LinkError> {
        ipc::write(&mut &self.stream, message).map_err(LinkError::Send)
    }

    /// The first message.
    pub fn wait_start(&self, deadline: Duration) -> Result<Start, LinkError> {
        match self.next("Start", deadline)? {
            ToRank::Start(start) => Ok(start),
            other => Err(unexpected("Start", &other)),
        }
    }

    /// Where rank 0 listens.
    pub fn wait_rendezvous(&self, deadline: Duration) -> Result<String, LinkError> {
        match self.next("Rendezvous", deadline)? {
            ToRank::Rendezvous { address } => Ok(address),
            other => Err(unexpected("Rendezvous", &other)),
        }
    }

    /// That the checkpoint of `step` is durable. Rank 0 itself needs no rendezvous; one that the
    /// agent tells the whole gang is passed over.
    pub fn wait_stored(&self, step: u64, deadline: Duration) -> Result<(), LinkError> {
        loop {
            match self.next("Stored", deadline)? {
                ToRank::Stored { step: stored, .. } if stored == step => return Ok(()),
                ToRank::Rendezvous { .. } => {}
                other => return Err(unexpected("Stored", &other)),
            }
        }
    }

    fn next(&self, what: &'static str, deadline: Duration) -> Result<ToRank, LinkError> {
        self.inbox
            .recv_timeout(deadline)
            .map_err(|error| match error {
                RecvTimeoutError::Timeout => LinkError::Silent { what, deadline },
                RecvTimeoutError::Disconnected => LinkError::Closed,
            })
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::Release);
        // Ends the reader. An error means that the other side has closed already, which ends it too.
        let _ = self.stream.shutdown(Shutdown::Both);
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

/// Reads until the end and says why it ended.
fn read(input: UnixStream, sender: &SyncSender<ToRank>) -> String {
    let mut input = BufReader::new(input);
    loop {
        match ipc::read(&mut input) {
            Ok(Some(message)) => {
                if sender.try_send(message).is_err() {
                    return "a message that nothing waits for".to_owned();
                }
            }
            Ok(None) => return "end of stream".to_owned(),
            Err(error) => return error.to_string(),
        }
    }
}

fn unexpected(what: &'static str, got: &ToRank) -> LinkError {
    let got = match got {
        ToRank::Start(_) => "Start".to_owned(),
        ToRank::Rendezvous { .. } => "Rendezvous".to_owned(),
        ToRank::Stored { step, .. } => format!("Stored for step {step}"),
    };
    LinkError::Unexpected { what, got }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::net::UnixListener, path::PathBuf};

    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    /// A rank's link and its agent's end.
    ///
    /// The agent's end comes before the link, so that a test drops it after the link: the other way
    /// round the rank's process would end, as it should.
    fn pair() -> (tempfile::TempDir, UnixStream, Link) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let link = Link::connect(&path).unwrap();
        let (agent, _) = listener.accept().unwrap();
        (folder, agent, link)
    }

    fn stored(step: u64) -> ToRank {
        ToRank::Stored {
            step,
            digest: "sha256:0".to_owned(),
        }
    }

    #[test]
    fn messages_go_both_ways() {
        let (_folder, mut agent, link) = pair();
        link.send(&FromRank::Hello { rank: 2 }).unwrap();
        let mut reader = BufReader::new(agent.try_clone().unwrap());
        assert_eq!(
            ipc::read(&mut reader).unwrap(),
            Some(FromRank::Hello { rank: 2 })
        );
        let address = "127.0.0.1:5".to_owned();
        ipc::write(&mut agent, &ToRank::Rendezvous { address }).unwrap();
        ipc::write(&mut agent, &stored(4)).unwrap();
        // Rank 0 passes the rendezvous over.
        link.wait_stored(4, SOON).unwrap();
        drop(link);
        assert_eq!(ipc::read::<FromRank>(&mut reader).unwrap(), None);
    }

    #[test]
    fn what_is_not_due_is_named() {
        let (_folder, mut agent, link) = pair();
        ipc::write(&mut agent, &stored(3)).unwrap();
        let error = link.wait_start(SOON).unwrap_err().to_string();
        assert_eq!(
            error,
            "the agent sent Stored for step 3 where Start was due"
        );
        ipc::write(&mut agent, &stored(3)).unwrap();
        let error = link.wait_stored(4, SOON).unwrap_err().to_string();
        assert_eq!(
            error,
            "the agent sent Stored for step 3 where Stored was due"
        );
        let error = link
            .wait_rendezvous(Duration::from_millis(1))
            .unwrap_err()
            .to_string();
        assert_eq!(error, "the agent did not send Rendezvous within 0 s");
    }

    #[test]
    fn no_agent_is_said_with_the_path() {
        let path = PathBuf::from("/absent/agent.sock");
        let error = Link::connect(&path).unwrap_err().to_string();
        assert!(error.starts_with("cannot reach the agent at /absent/agent.sock: "));
    }
}
