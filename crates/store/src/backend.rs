use std::time::Duration;

use async_trait::async_trait;

use crate::{Entry, LeaseId, Outcome, Page, Range, Revision, StoreError, Txn, Watch};

/// What a store is made of. Private, so that nothing outside can write without a [`crate::Leader`].
/// `conformance` says what every backend must do.
#[async_trait]
pub(crate) trait Backend: Send + Sync {
    async fn get(&self, key: String) -> Result<Option<Entry>, StoreError>;
    async fn range(&self, range: Range) -> Result<Page, StoreError>;
    fn watch(&self, prefix: String, from: Revision) -> Watch;
    /// All or nothing, and durable when it answers.
    async fn commit(&self, txn: Txn) -> Result<Outcome, StoreError>;
    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError>;
    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError>;
    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError>;
    async fn close(&self);
}
