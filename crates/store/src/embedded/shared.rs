use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use redb::{Database, ReadTransaction, ReadableDatabase as _};
use tokio::sync::watch;

use super::leases::Leases;
use crate::{Clock, Revision, StoreError};

/// What the writer, the readers and the watches share.
pub(super) struct Shared {
    /// `None` once closed: the file is let go of as soon as the last transaction ends.
    database: RwLock<Option<Database>>,
    leases: Mutex<Leases>,
    pub(super) clock: Arc<dyn Clock>,
    /// Latest durable revision; the writer owns the sender, so that its end wakes the watches.
    pub(super) latest: watch::Receiver<Revision>,
}

impl Shared {
    pub(super) fn new(
        database: Database,
        leases: Leases,
        clock: Arc<dyn Clock>,
        latest: watch::Receiver<Revision>,
    ) -> Self {
        Self {
            database: RwLock::new(Some(database)),
            leases: Mutex::new(leases),
            clock,
            latest,
        }
    }

    /// The leases. A lock poisoned by a panic is taken all the same: each change is one step.
    pub(super) fn leases(&self) -> MutexGuard<'_, Leases> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `f` on the database.
    pub(super) fn with<T>(
        &self,
        f: impl FnOnce(&Database) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let guard = self.database.read().unwrap_or_else(PoisonError::into_inner);
        f(guard.as_ref().ok_or(StoreError::Closed)?)
    }

    pub(super) fn close(&self) {
        let database = self
            .database
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        drop(database);
    }

    /// Runs a read transaction on a thread that may block.
    pub(super) async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        f: impl FnOnce(&ReadTransaction) -> Result<T, redb::Error> + Send + 'static,
    ) -> Result<T, StoreError> {
        let shared = Arc::clone(self);
        tokio::task::spawn_blocking(move || {
            shared.with(|db| {
                let txn = db.begin_read().map_err(failed)?;
                f(&txn).map_err(failed)
            })
        })
        .await
        .map_err(|e| StoreError::Backend(Arc::new(e)))?
    }
}

pub(super) fn failed(error: impl Into<redb::Error>) -> StoreError {
    StoreError::Backend(Arc::new(error.into()))
}
