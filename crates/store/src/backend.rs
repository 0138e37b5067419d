use std::time::Duration;

use async_trait::async_trait;

use crate::etcd::Slots;
use crate::{Entry, LeaseId, Outcome, Page, Range, Revision, StoreError, Txn, Watch};

/// What a store is made of. Private, so that nothing outside can write without a [`crate::Leader`].
/// `conformance` says what every backend must do.
#[async_trait]
pub(crate) trait Backend: Send + Sync {
    fn limits(&self) -> Limits;
    async fn get(&self, key: String) -> Result<Option<Entry>, StoreError>;
    async fn range(&self, range: Range) -> Result<Page, StoreError>;
    fn watch(&self, prefix: String, from: Revision) -> Watch;
    /// Waits until nobody else may write, if others can be alive.
    async fn campaign(&self, id: &str) -> Result<Term, StoreError>;
    /// All or nothing, and durable when it answers. The fence is among the conditions.
    async fn commit(&self, term: &Term, txn: Txn) -> Result<Outcome, StoreError>;
    async fn renew(&self, term: &Term) -> Result<(), StoreError>;
    async fn resign(&self, term: &Term) -> Result<(), StoreError>;
    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError>;
    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError>;
    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError>;
    async fn close(&self);
}

/// What a campaign won.
#[derive(Debug)]
pub(crate) struct Term {
    /// Mod revision of the leader's key.
    pub(crate) fence: Revision,
    /// How long the term lasts without being renewed, and the lease by which it ends; `None` when
    /// only a later campaign ends it.
    pub(crate) lease: Option<(Duration, LeaseId)>,
    /// Marks of the commits under way.
    pub(crate) slots: Slots,
}

/// Largest transaction that a store takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Operations, and conditions.
    pub ops: usize,
    /// Bytes of keys and values.
    pub bytes: usize,
}
