//! The store in one file: redb, one writer thread that shares an fsync among the transactions that
//! wait for it, and a change log for watches.

mod batch;
mod leases;
mod reads;
mod shared;
mod tables;
mod watch;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use async_trait::async_trait;
use redb::{Database, DatabaseError, ReadableDatabase as _, ReadableTable as _};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use self::leases::Leases;
use self::shared::{Shared, failed};
use self::tables::{COUNTERS, LEASES, REVISION};
use self::watch::LogWatch;
use self::writer::Command;
use crate::backend::{Backend, Term};
use crate::etcd::Slots;
use crate::leader::LEADER_KEY;
use crate::{
    Clock, Compare, Entry, LeaseId, Limits, MonotonicClock, Op, Outcome, Page, Range, Revision,
    StoreError, Txn, Watch,
};

/// Most writes that wait; further writers wait to be let in.
const QUEUE: usize = 1024;

/// What one transaction may hold, so that it is written in a fraction of a second.
const LIMITS: Limits = Limits {
    ops: 1024,
    bytes: 64 << 20,
};

/// How the embedded store is run.
#[derive(Clone)]
pub struct Options {
    /// The clock of leases.
    pub clock: Arc<dyn Clock>,
    /// Time between two looks for expired leases.
    pub sweep: Duration,
    /// Revisions that the change log keeps for watches.
    pub log_revisions: u64,
    /// Bytes of keys and values that the change log keeps at most.
    pub log_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            clock: Arc::new(MonotonicClock::default()),
            sweep: Duration::from_millis(200),
            log_revisions: 10_000,
            log_bytes: 64 << 20,
        }
    }
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options")
            .field("sweep", &self.sweep)
            .field("log_revisions", &self.log_revisions)
            .field("log_bytes", &self.log_bytes)
            .finish_non_exhaustive()
    }
}

pub(crate) struct Embedded {
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
    sweeper: JoinHandle<()>,
    writer: Mutex<Option<thread::JoinHandle<()>>>,
}

impl Embedded {
    /// Opens the file, or a store in memory.
    pub(crate) async fn open(path: Option<PathBuf>, options: Options) -> Result<Self, StoreError> {
        let clock = Arc::clone(&options.clock);
        let (database, leases, revision) =
            tokio::task::spawn_blocking(move || open_database(path.as_deref(), &*clock))
                .await
                .map_err(|e| StoreError::Backend(Arc::new(e)))??;
        let (latest, latest_seen) = tokio::sync::watch::channel(revision);
        let shared = Arc::new(Shared::new(
            database,
            leases,
            Arc::clone(&options.clock),
            latest_seen,
        ));
        let (commands, queue) = mpsc::channel(QUEUE);
        let sweeper = tokio::spawn(sweep(commands.downgrade(), options.sweep));
        let writer = thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn({
                let shared = Arc::clone(&shared);
                move || writer::run(queue, &shared, &latest, &options)
            })
            .map_err(|e| StoreError::Backend(Arc::new(e)))?;
        Ok(Self {
            shared,
            commands,
            sweeper,
            writer: Mutex::new(Some(writer)),
        })
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Command,
    ) -> Result<T, StoreError> {
        let (answer, answered) = oneshot::channel();
        self.commands
            .send(command(answer))
            .await
            .map_err(|_| StoreError::Closed)?;
        answered.await.map_err(|_| StoreError::Closed)?
    }

    async fn write(&self, txn: Txn) -> Result<Outcome, StoreError> {
        self.ask(|answer| Command::Commit(txn, answer)).await
    }

    fn take_writer(&self) -> Option<thread::JoinHandle<()>> {
        self.writer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }
}

impl Drop for Embedded {
    /// The writer ends after the writes it has taken: a bounded number.
    fn drop(&mut self) {
        self.sweeper.abort();
        let (unconnected, _) = mpsc::channel(1);
        drop(std::mem::replace(&mut self.commands, unconnected));
        if let Some(writer) = self.take_writer()
            && writer.join().is_err()
        {
            tracing::error!("the store's writer panicked");
        }
    }
}

#[async_trait]
impl Backend for Embedded {
    fn limits(&self) -> Limits {
        LIMITS
    }

    async fn get(&self, key: String) -> Result<Option<Entry>, StoreError> {
        self.shared.read(move |txn| reads::get(txn, &key)).await
    }

    async fn range(&self, range: Range) -> Result<Page, StoreError> {
        self.shared.read(move |txn| reads::range(txn, &range)).await
    }

    fn watch(&self, prefix: String, from: Revision) -> Watch {
        Watch::new(LogWatch::new(Arc::clone(&self.shared), prefix, from))
    }

    /// At once: the file is this process's, so there is nobody else to wait for.
    async fn campaign(&self, id: &str) -> Result<Term, StoreError> {
        match self.write(Txn::new().then(Op::put(LEADER_KEY, id))).await? {
            Outcome::Committed(fence) => Ok(Term {
                fence,
                lease: None,
                slots: Slots::default(),
            }),
            Outcome::Conflict => Err(StoreError::NotLeader { holder: None }),
        }
    }

    async fn commit(&self, _: &Term, txn: Txn) -> Result<Outcome, StoreError> {
        self.write(txn).await
    }

    async fn renew(&self, _: &Term) -> Result<(), StoreError> {
        Ok(())
    }

    async fn resign(&self, term: &Term) -> Result<(), StoreError> {
        let fence = Compare::ModRevision(LEADER_KEY.to_owned(), term.fence);
        let txn = Txn::new().when(fence).then(Op::delete(LEADER_KEY));
        self.write(txn).await.map(|_| ())
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.ask(|answer| Command::Grant(ttl, answer)).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        let now = self.shared.clock.now();
        if self.shared.leases().keep_alive(lease.0, now) {
            Ok(())
        } else {
            Err(StoreError::LeaseNotFound(lease.0))
        }
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.ask(|answer| Command::Revoke(lease, answer)).await
    }

    async fn close(&self) {
        self.sweeper.abort();
        if self.commands.send(Command::Close).await.is_err() {
            return;
        }
        if let Some(writer) = self.take_writer() {
            let joined = tokio::task::spawn_blocking(move || writer.join()).await;
            if !matches!(joined, Ok(Ok(()))) {
                tracing::error!("the store's writer panicked");
            }
        }
    }
}

fn open_database(
    path: Option<&Path>,
    clock: &dyn Clock,
) -> Result<(Database, Leases, Revision), StoreError> {
    let database = match path {
        None => Database::builder()
            .create_with_backend(redb::backends::InMemoryBackend::new())
            .map_err(failed)?,
        Some(path) => Database::create(path).map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen => StoreError::InUse {
                path: path.to_owned(),
            },
            source => StoreError::Open {
                path: path.to_owned(),
                source: Arc::new(source),
            },
        })?,
    };
    tables::create(&database).map_err(failed)?;
    let (leases, revision) = load(&database, clock).map_err(failed)?;
    Ok((database, leases, revision))
}

/// The leases, each renewed: nobody could keep them alive while the store was closed.
fn load(database: &Database, clock: &dyn Clock) -> Result<(Leases, Revision), redb::Error> {
    let txn = database.begin_read()?;
    let mut leases = Leases::default();
    for row in txn.open_table(LEASES)?.iter()? {
        let (id, millis) = row?;
        leases.start(
            id.value(),
            Duration::from_millis(millis.value()),
            clock.now(),
        );
    }
    let counters = txn.open_table(COUNTERS)?;
    let revision = counters.get(REVISION)?.map_or(0, |v| v.value());
    Ok((leases, Revision(revision)))
}

/// Has the writer look for expired leases, until the store is gone. A full queue means that the
/// writer is busy: then the next look will do.
async fn sweep(commands: mpsc::WeakSender<Command>, every: Duration) {
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(commands) = commands.upgrade() else {
            return;
        };
        if let Err(mpsc::error::TrySendError::Closed(_)) = commands.try_send(Command::Sweep) {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
