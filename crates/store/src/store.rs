use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::backend::Backend;
use crate::embedded::{Embedded, Options};
use crate::etcd::{Etcd, EtcdOptions};
use crate::leader::LEADER_KEY;
use crate::txn::{validate_key, validate_prefix};
use crate::{Entry, Leader, Limits, Page, Range, Revision, StoreError, Watch};

/// Name of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub u64);

/// A handle to the store, for reading and for leases. Clones share the store.
#[derive(Clone)]
pub struct Store(Arc<dyn Backend>);

impl Store {
    /// Opens the embedded store in this file, making it if it is not there. Leases found in it are
    /// renewed in full.
    ///
    /// Must be called in a tokio runtime, which then runs the sweeper of expired leases.
    ///
    /// # Errors
    /// [`StoreError::InUse`] when another process has it open; [`StoreError::Open`].
    pub async fn open(path: impl AsRef<Path>, options: Options) -> Result<Self, StoreError> {
        let embedded = Embedded::open(Some(path.as_ref().to_owned()), options).await?;
        Ok(Self(Arc::new(embedded)))
    }

    /// The embedded store in memory, for tests of what is built on it.
    ///
    /// # Errors
    /// [`StoreError::Open`].
    pub async fn in_memory(options: Options) -> Result<Self, StoreError> {
        Ok(Self(Arc::new(Embedded::open(None, options).await?)))
    }

    /// The store in an etcd cluster, which several processes share.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] when an option is wrong, the name and password included;
    /// [`StoreError::Unreachable`] when no member answers.
    pub async fn connect_etcd(options: EtcdOptions) -> Result<Self, StoreError> {
        Ok(Self(Arc::new(Etcd::connect(options).await?)))
    }

    /// One process's way to a store in memory that several of a simulation share.
    #[cfg(any(test, feature = "simulation"))]
    pub fn simulated(
        memory: crate::simulated::Memory,
        wire: Arc<dyn crate::simulated::Wire>,
    ) -> Self {
        Self(Arc::new(crate::simulated::Remote::new(memory, wire)))
    }

    /// Largest transaction that it takes.
    pub fn limits(&self) -> Limits {
        self.0.limits()
    }

    /// Name under which the present leader campaigned, if there is one.
    ///
    /// # Errors
    /// As [`Store::get`].
    pub async fn leader(&self) -> Result<Option<String>, StoreError> {
        let entry = self.0.get(LEADER_KEY.to_owned()).await?;
        Ok(entry.map(|entry| String::from_utf8_lossy(&entry.value).into_owned()))
    }

    /// The value of a key.
    ///
    /// # Errors
    /// [`StoreError::Invalid`], [`StoreError::Unreachable`], [`StoreError::Backend`],
    /// [`StoreError::Closed`].
    pub async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        validate_key(key)?;
        self.0.get(key.to_owned()).await
    }

    /// A page of entries, all read at one revision.
    ///
    /// # Errors
    /// As [`Store::get`].
    pub async fn range(&self, range: Range) -> Result<Page, StoreError> {
        range.validate()?;
        self.0.range(range).await
    }

    /// Changes under a prefix by transactions from revision `from` on (itself included). After
    /// reading a page, pass `page.revision.next()`.
    ///
    /// # Errors
    /// [`StoreError::Invalid`]. That `from` is no longer kept is said by the first [`Watch::next`].
    pub fn watch(&self, prefix: &str, from: Revision) -> Result<Watch, StoreError> {
        validate_prefix(prefix)?;
        Ok(self.0.watch(prefix.to_owned(), from))
    }

    /// Makes a lease that expires when it is not kept alive for `ttl`. Etcd's leases last whole
    /// seconds, rounded up, and at least one and a half times its election timeout (2 s by default);
    /// they may outlast their time when etcd changes its own leader.
    ///
    /// # Errors
    /// As [`Store::get`].
    pub async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        if ttl.is_zero() {
            return Err(StoreError::Invalid(
                "a lease lasts longer than 0".to_owned(),
            ));
        }
        self.0.grant(ttl).await
    }

    /// Renews a lease for its whole time.
    ///
    /// # Errors
    /// [`StoreError::LeaseNotFound`] when it has expired, even if its keys are still to be removed.
    pub async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.0.keep_alive(lease).await
    }

    /// Ends a lease and removes its keys.
    ///
    /// # Errors
    /// [`StoreError::LeaseNotFound`].
    pub async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.0.revoke(lease).await
    }

    /// Becomes the leader. The embedded store, which is one process's, is taken over at once: whoever
    /// led before can write no more. In etcd it waits until the leader has resigned or has not renewed
    /// its right in time. Giving up the wait is safe.
    ///
    /// # Errors
    /// As [`Store::get`].
    pub async fn campaign(&self, id: &str) -> Result<Leader, StoreError> {
        let term = self.0.campaign(id).await?;
        Ok(Leader::new(self.clone(), id.to_owned(), term))
    }

    /// Finishes the writes taken, ends the threads and lets go of the file. Every later call, and
    /// every waiting watch, gets [`StoreError::Closed`].
    pub async fn close(&self) {
        self.0.close().await;
    }

    pub(crate) fn backend(&self) -> &dyn Backend {
        &*self.0
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").finish_non_exhaustive()
    }
}
