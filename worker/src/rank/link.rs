//! The rank's end of the socket to its agent: JSON lines, see `crate::ipc`.
//!
//! A thread reads. It keeps of each kind of message the newest, so nothing piles up, and it fails the
//! collective of a group whose ranks are to part at once: the trainer, which waits in it, wakes up.

use std::{
    io::{self, BufReader, Write as _},
    net::Shutdown,
    os::unix::net::UnixStream,
    path::Path,
    process,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use espalier_collective::Collective;

use crate::ipc::{self, Formation, FromRank, Group, IpcError, Start, ToRank};

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
        source: io::Error,
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
}

/// The connection. The process exits as soon as the agent closes it: a rank without an agent must
/// not go on.
#[derive(Debug)]
pub(super) struct Link {
    /// Held for a whole message.
    stream: Arc<Mutex<UnixStream>>,
    inbox: Arc<Inbox>,
    closing: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
}

/// What the agent has said that is of use yet.
#[derive(Debug, Default)]
struct Inbox {
    news: Mutex<News>,
    changed: Condvar,
}

#[derive(Default)]
struct News {
    start: Option<Start>,
    /// The newest group, until it is taken.
    group: Option<Group>,
    /// Where the newest group meets.
    rendezvous: Option<(u64, String)>,
    /// Step of the last checkpoint that is durable.
    stored: Option<u64>,
    /// The gang is about to leave.
    halt: bool,
    /// The collective that the trainer may be waiting in.
    world: Option<Arc<dyn Collective>>,
}

impl Link {
    /// Connects to the agent's socket and starts reading.
    pub(super) fn connect(path: &Path) -> Result<Self, LinkError> {
        let failed = |source| LinkError::Connect {
            path: path.display().to_string(),
            source,
        };
        let stream = UnixStream::connect(path).map_err(failed)?;
        stream
            .set_write_timeout(Some(WRITE_DEADLINE))
            .map_err(failed)?;
        let inbox = Arc::new(Inbox::default());
        let closing = Arc::new(AtomicBool::new(false));
        let input = stream.try_clone().map_err(failed)?;
        let reader = thread::Builder::new()
            .name("agent-reader".to_owned())
            .spawn({
                let (inbox, closing) = (Arc::clone(&inbox), Arc::clone(&closing));
                move || {
                    let end = read(input, &inbox);
                    if !closing.load(Ordering::Acquire) {
                        // The agent read the other end of stderr, so a logger may panic here; and an
                        // orderly exit would wait for libtorch's threads, which wait for the peers.
                        let _ = writeln!(io::stderr(), "lost the agent: {end}");
                        process::abort();
                    }
                }
            })
            .map_err(failed)?;
        Ok(Self {
            stream: Arc::new(Mutex::new(stream)),
            inbox,
            closing,
            reader: Some(reader),
        })
    }

    /// Sends a message.
    pub(super) fn send(&self, message: &FromRank) -> Result<(), LinkError> {
        send(&self.stream, message)
    }

    /// Sends messages from another thread.
    pub(super) fn sender(&self) -> impl Fn(&FromRank) -> Result<(), LinkError> + Send + 'static {
        let stream = Arc::clone(&self.stream);
        move |message| send(&stream, message)
    }

    /// What to do.
    pub(super) fn wait_start(&self, deadline: Duration) -> Result<Start, LinkError> {
        self.wait("Start", deadline, |news| news.start.take())
    }

    /// The next group to be in.
    pub(super) fn wait_group(&self, deadline: Duration) -> Result<Group, LinkError> {
        self.wait("a group", deadline, |news| news.group.take())
    }

    /// Where the ranks of a generation meet; none once there is a newer group.
    pub(super) fn wait_rendezvous(
        &self,
        generation: u64,
        deadline: Duration,
    ) -> Result<Option<String>, LinkError> {
        self.wait("the rendezvous", deadline, |news| {
            if news.group.is_some() {
                return Some(None);
            }
            let meant = |(of, _): &mut (u64, String)| *of == generation;
            news.rendezvous.take_if(meant).map(|(_, at)| Some(at))
        })
    }

    /// What a thread of this rank brings by `take`, which is called whenever [`Link::wake`] is; none
    /// once there is a newer group.
    pub(super) fn wait_unless_superseded<T>(
        &self,
        what: &'static str,
        deadline: Duration,
        take: impl Fn() -> Option<T>,
    ) -> Result<Option<T>, LinkError> {
        self.wait(what, deadline, |news| match &news.group {
            Some(_) => Some(None),
            None => take().map(Some),
        })
    }

    /// Lets whoever waits look again; for threads of this rank.
    pub(super) fn waker(&self) -> impl Fn() + Send + 'static {
        let inbox = Arc::clone(&self.inbox);
        move || {
            // Taken so that a waiter between its look and its sleep does not miss it.
            let _news = inbox.lock();
            inbox.changed.notify_all();
        }
    }

    /// That the checkpoint of `step` is durable.
    pub(super) fn wait_stored(&self, step: u64, deadline: Duration) -> Result<(), LinkError> {
        self.wait("Stored", deadline, |news| {
            news.stored.filter(|stored| *stored >= step).map(drop)
        })
    }

    /// No further step is to be run.
    pub(super) fn halts(&self) -> bool {
        self.inbox.lock().halt
    }

    /// Another group to be in; it is not taken.
    pub(super) fn wait_superseded(&self, deadline: Duration) -> Result<(), LinkError> {
        self.wait("the end or another group", deadline, |news| {
            news.group.is_some().then_some(())
        })
    }

    /// A newer group waits to be taken.
    pub(super) fn superseded(&self) -> bool {
        self.inbox.lock().group.is_some()
    }

    /// Lets the reader fail `world` when its ranks are to part. Done at once if they already are.
    pub(super) fn watch(&self, world: &Arc<dyn Collective>) {
        let mut news = self.inbox.lock();
        news.world = Some(Arc::clone(world));
        news.part();
    }

    /// The group is left.
    pub(super) fn unwatch(&self) {
        self.inbox.lock().world = None;
    }

    fn wait<T>(
        &self,
        what: &'static str,
        deadline: Duration,
        mut take: impl FnMut(&mut News) -> Option<T>,
    ) -> Result<T, LinkError> {
        let until = Instant::now() + deadline;
        let mut news = self.inbox.lock();
        loop {
            if let Some(found) = take(&mut news) {
                return Ok(found);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(LinkError::Silent { what, deadline });
            }
            news = self
                .inbox
                .changed
                .wait_timeout(news, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, News> {
        // Every change of the news is a single store, so they are sound whoever panicked.
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, message: ToRank) {
        let mut news = self.lock();
        match message {
            ToRank::Start(start) => news.start = Some(start),
            ToRank::Group(group) => {
                let newest = news.group.as_ref().map_or(0, |known| known.generation);
                if group.generation > newest {
                    news.group = Some(group);
                    news.part();
                }
            }
            ToRank::Rendezvous {
                generation,
                address,
            } => news.rendezvous = Some((generation, address)),
            ToRank::Halt => news.halt = true,
            ToRank::Stored { step, .. } => news.stored = news.stored.max(Some(step)),
        }
        self.changed.notify_all();
    }
}

impl News {
    /// Fails the collective if a newer group says that its ranks part at once.
    fn part(&self) {
        if let (Some(world), Some(group)) = (&self.world, &self.group)
            && group.formation != Formation::Planned
        {
            world.abort(&format!(
                "generation {}: {}",
                group.generation, group.reason
            ));
        }
    }
}

impl std::fmt::Debug for News {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("News")
            .field("group", &self.group)
            .field("rendezvous", &self.rendezvous)
            .field("stored", &self.stored)
            .field("halt", &self.halt)
            .finish_non_exhaustive()
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::Release);
        // Ends the reader. An error means that the other side has closed already, which ends it too.
        let stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = stream.shutdown(Shutdown::Both);
        drop(stream);
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

fn send(stream: &Mutex<UnixStream>, message: &FromRank) -> Result<(), LinkError> {
    let mut stream = stream.lock().unwrap_or_else(PoisonError::into_inner);
    ipc::write(&mut *stream, message).map_err(LinkError::Send)
}

/// Reads until the end and says why it ended.
fn read(input: UnixStream, inbox: &Inbox) -> String {
    let mut input = BufReader::new(input);
    loop {
        match ipc::read(&mut input) {
            Ok(Some(message)) => inbox.take(message),
            Ok(None) => return "end of stream".to_owned(),
            Err(error) => return error.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::net::UnixListener, path::PathBuf};

    use espalier_collective::Solo;

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

    fn group(generation: u64, formation: Formation) -> ToRank {
        ToRank::Group(Group {
            generation,
            rank: 0,
            world_size: 1,
            committed_step: 0,
            formation,
            reason: "a test".to_owned(),
        })
    }

    #[test]
    fn messages_go_both_ways() {
        let (_folder, mut agent, link) = pair();
        link.send(&FromRank::Hello { seat: 2 }).unwrap();
        let mut reader = BufReader::new(agent.try_clone().unwrap());
        assert_eq!(
            ipc::read(&mut reader).unwrap(),
            Some(FromRank::Hello { seat: 2 })
        );
        for (generation, address) in [(6, "127.0.0.1:5"), (7, "127.0.0.1:6")] {
            let address = address.to_owned();
            let message = ToRank::Rendezvous {
                generation,
                address,
            };
            ipc::write(&mut agent, &message).unwrap();
        }
        ipc::write(&mut agent, &stored(4)).unwrap();
        link.wait_stored(4, SOON).unwrap();
        let address = link.wait_rendezvous(7, SOON).unwrap();
        assert_eq!(address.as_deref(), Some("127.0.0.1:6"));
        drop(link);
        assert_eq!(ipc::read::<FromRank>(&mut reader).unwrap(), None);
    }

    #[test]
    fn the_newest_group_is_taken_and_ends_waits_of_the_one_before() {
        let (_folder, mut agent, link) = pair();
        for generation in [5, 9, 7] {
            ipc::write(&mut agent, &group(generation, Formation::Survivors)).unwrap();
        }
        ipc::write(&mut agent, &stored(1)).unwrap();
        link.wait_stored(1, SOON).unwrap();
        assert!(link.superseded());
        assert_eq!(link.wait_rendezvous(4, SOON).unwrap(), None);
        assert_eq!(link.wait_group(SOON).unwrap().generation, 9);
        assert!(!link.superseded());
    }

    #[test]
    fn a_group_of_survivors_fails_the_collective_and_a_planned_one_does_not() {
        let (_folder, mut agent, link) = pair();
        let world: Arc<dyn Collective> = Arc::new(Solo::default());
        link.watch(&world);
        ipc::write(&mut agent, &group(5, Formation::Planned)).unwrap();
        assert_eq!(link.wait_group(SOON).unwrap().generation, 5);
        assert!(world.barrier().is_ok());
        ipc::write(&mut agent, &group(6, Formation::Survivors)).unwrap();
        assert_eq!(link.wait_group(SOON).unwrap().generation, 6);
        let error = world.barrier().err().unwrap().to_string();
        assert!(error.ends_with("generation 6: a test"), "{error}");
    }

    #[test]
    fn a_rank_that_halts_waits_for_another_group() {
        let (_folder, mut agent, link) = pair();
        assert!(!link.halts());
        ipc::write(&mut agent, &ToRank::Halt).unwrap();
        ipc::write(&mut agent, &stored(1)).unwrap();
        link.wait_stored(1, SOON).unwrap();
        assert!(link.halts());
        assert!(link.wait_superseded(Duration::from_millis(1)).is_err());
        ipc::write(&mut agent, &group(5, Formation::Survivors)).unwrap();
        link.wait_superseded(SOON).unwrap();
        assert_eq!(link.wait_group(SOON).unwrap().generation, 5);
    }

    #[test]
    fn silence_is_named() {
        let (_folder, _agent, link) = pair();
        let error = link
            .wait_rendezvous(1, Duration::from_millis(1))
            .unwrap_err()
            .to_string();
        assert_eq!(error, "the agent did not send the rendezvous within 0 s");
    }

    #[test]
    fn no_agent_is_said_with_the_path() {
        let path = PathBuf::from("/absent/agent.sock");
        let error = Link::connect(&path).unwrap_err().to_string();
        assert!(error.starts_with("cannot reach the agent at /absent/agent.sock: "));
    }
}
