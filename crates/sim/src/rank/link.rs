//! The fake rank's end of the connection to its agent: as the real one, it keeps of each kind of message
//! the newest.

use std::time::Duration;

use espalier_worker::agent::Duplex;
use espalier_worker::ipc::{Formation, FromRank, Group, Start, ToRank, decode, encode};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, ReadHalf, WriteHalf};
use tokio::sync::{Mutex, watch};
use tokio::time::timeout;

/// The agent is of no use any more.
#[derive(Debug)]
pub(crate) struct Broken(pub(crate) String);

pub(super) struct Link {
    writer: Mutex<WriteHalf<Box<dyn Duplex>>>,
    news: watch::Sender<News>,
}

#[derive(Default)]
struct News {
    start: Option<Start>,
    /// The newest group, until it is taken.
    group: Option<Group>,
    rendezvous: Option<(u64, String)>,
    /// Step of the last checkpoint that is durable.
    stored: Option<u64>,
    /// The gang is about to leave.
    halt: bool,
}

impl Link {
    pub(super) fn new(writer: WriteHalf<Box<dyn Duplex>>) -> Self {
        Self {
            writer: Mutex::new(writer),
            news: watch::Sender::default(),
        }
    }

    pub(super) async fn send(&self, message: &FromRank) -> Result<(), Broken> {
        let line = encode(message).map_err(|error| Broken(error.to_string()))?;
        let mut writer = self.writer.lock().await;
        let written = writer.write_all(&line).await;
        written.map_err(|error| Broken(error.to_string()))
    }

    /// Reads until the agent is gone.
    pub(super) async fn read(&self, reader: ReadHalf<Box<dyn Duplex>>) {
        let mut reader = BufReader::new(reader);
        loop {
            let mut line = Vec::new();
            if reader.read_until(b'\n', &mut line).await.is_err() {
                return;
            }
            let Ok(Some(message)) = decode(&line) else {
                return;
            };
            self.news.send_modify(|news| match message {
                ToRank::Start(start) => news.start = Some(start),
                ToRank::Group(group) => {
                    let newest = news.group.as_ref().map_or(0, |known| known.generation);
                    if group.generation > newest {
                        news.group = Some(group);
                    }
                }
                ToRank::Rendezvous {
                    generation,
                    address,
                } => news.rendezvous = Some((generation, address)),
                ToRank::Halt => news.halt = true,
                ToRank::Stored { step, .. } => news.stored = news.stored.max(Some(step)),
            });
        }
    }

    pub(super) async fn start(&self, deadline: Duration) -> Result<Start, Broken> {
        self.wait("Start", deadline, |news| news.start.clone())
            .await
    }

    pub(super) async fn group(&self, deadline: Duration) -> Result<Group, Broken> {
        let found = self
            .wait("a group", deadline, |news| news.group.clone())
            .await?;
        self.news.send_modify(|news| news.group = None);
        Ok(found)
    }

    /// Where a generation meets; none once there is a newer group.
    pub(super) async fn rendezvous(
        &self,
        generation: u64,
        deadline: Duration,
    ) -> Result<Option<String>, Broken> {
        self.wait("the rendezvous", deadline, |news| {
            if news.group.is_some() {
                return Some(None);
            }
            let meant = news.rendezvous.as_ref().filter(|(of, _)| *of == generation);
            meant.map(|(_, address)| Some(address.clone()))
        })
        .await
    }

    pub(super) async fn stored(&self, step: u64, deadline: Duration) -> Result<(), Broken> {
        self.wait("Stored", deadline, |news| {
            news.stored.filter(|stored| *stored >= step).map(drop)
        })
        .await
    }

    /// No further step is to be run.
    pub(super) fn halts(&self) -> bool {
        self.news.borrow().halt
    }

    /// Waits for another group to be in; it is not taken.
    pub(super) async fn another(&self, deadline: Duration) -> Result<(), Broken> {
        self.wait("the end or another group", deadline, |news| {
            news.group.is_some().then_some(())
        })
        .await
    }

    /// A newer group waits to be taken.
    pub(super) fn is_superseded(&self) -> bool {
        self.news.borrow().group.is_some()
    }

    /// Waits for one.
    pub(super) async fn superseded(&self) {
        let mut news = self.news.subscribe();
        // The sender is this link's own.
        let _ = news.wait_for(|news| news.group.is_some()).await;
    }

    /// Waits for one whose ranks part at once.
    pub(super) async fn parts(&self, generation: u64) -> String {
        let mut news = self.news.subscribe();
        let parting =
            |group: &Group| group.generation > generation && group.formation != Formation::Planned;
        loop {
            if let Some(group) = news
                .borrow_and_update()
                .group
                .as_ref()
                .filter(|g| parting(g))
            {
                return format!("generation {}: {}", group.generation, group.reason);
            }
            // The sender is this link's own.
            let _ = news.changed().await;
        }
    }

    async fn wait<T>(
        &self,
        what: &'static str,
        deadline: Duration,
        take: impl Fn(&News) -> Option<T>,
    ) -> Result<T, Broken> {
        let mut news = self.news.subscribe();
        let found = async {
            loop {
                if let Some(found) = take(&news.borrow_and_update()) {
                    return found;
                }
                // The sender is this link's own.
                let _ = news.changed().await;
            }
        };
        timeout(deadline, found).await.map_err(|_| {
            let seconds = deadline.as_secs();
            Broken(format!("the agent did not send {what} within {seconds} s"))
        })
    }
}
