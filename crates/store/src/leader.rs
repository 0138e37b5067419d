use std::sync::Arc;
use std::time::Duration;

use crate::backend::Term;
use crate::{Compare, Outcome, Revision, Store, StoreError, Txn};

/// Holds the id of the leader; its mod revision is the leader's fence.
pub(crate) const LEADER_KEY: &str = "leader";

/// Renewals in the time that a term lasts: three may fail.
const RENEWALS: u32 = 4;

/// The right to write, won by [`Store::campaign`]. Clones share it. Each later campaign, by whomever,
/// ends it: from then on every write is refused with [`StoreError::NotLeader`].
#[derive(Clone, Debug)]
pub struct Leader {
    store: Store,
    id: String,
    term: Arc<Term>,
}

impl Leader {
    pub(crate) fn new(store: Store, id: String, term: Term) -> Self {
        Self {
            store,
            id,
            term: Arc::new(term),
        }
    }

    /// The name under which it campaigned.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Revision of the campaign: a later leader has a larger one.
    pub fn fence(&self) -> Revision {
        self.term.fence
    }

    /// The store, for reading.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Time after which to [`Leader::renew`] again; `None` when the right lasts until somebody else
    /// campaigns.
    pub fn renew_every(&self) -> Option<Duration> {
        self.term.lease.map(|(ttl, _)| ttl / RENEWALS)
    }

    #[cfg(test)]
    pub(crate) fn lease(&self) -> Option<crate::LeaseId> {
        self.term.lease.map(|(_, lease)| lease)
    }

    /// Keeps the right for its whole time again. To be called from the loop that does the leader's
    /// work, so that a leader that hangs is replaced.
    ///
    /// # Errors
    /// [`StoreError::NotLeader`] when it has ended; the others of [`Store::get`].
    pub async fn renew(&self) -> Result<(), StoreError> {
        match self.store.backend().renew(&self.term).await {
            // Its key went with the lease, or is another's by now.
            Err(StoreError::LeaseNotFound(_)) => {
                self.check().await?;
                Err(StoreError::NotLeader { holder: None })
            }
            other => other,
        }
    }

    /// Gives the right back, so that the next leader need not wait until it ends by itself.
    ///
    /// # Errors
    /// As [`Store::get`]. It then ends by itself.
    pub async fn resign(&self) -> Result<(), StoreError> {
        self.store.backend().resign(&self.term).await
    }

    /// Makes the changes if every condition holds and this leader has not been replaced. When it
    /// answers, they are durable.
    ///
    /// # Errors
    /// [`StoreError::NotLeader`], [`StoreError::Invalid`], [`StoreError::LeaseNotFound`]; after
    /// [`StoreError::Unknown`], [`StoreError::Backend`] or [`StoreError::Closed`] it is unknown whether
    /// they were made.
    pub async fn commit(&self, mut txn: Txn) -> Result<Outcome, StoreError> {
        txn.validate(self.store.limits())?;
        txn.compares
            .push(Compare::ModRevision(LEADER_KEY.to_owned(), self.fence()));
        #[cfg(feature = "mutants")]
        if espalier_mutants::is("no-fence") {
            txn.compares.pop();
        }
        let outcome = self.store.backend().commit(&self.term, txn).await?;
        if outcome == Outcome::Conflict {
            self.check().await?;
        }
        Ok(outcome)
    }

    /// Whether this leader has not been replaced, at the time of the call.
    ///
    /// # Errors
    /// [`StoreError::NotLeader`] when it has.
    pub async fn check(&self) -> Result<(), StoreError> {
        // Fences only grow: one that is broken now may have been whole at an earlier conflict, but
        // the answer is true all the same.
        match self.store.get(LEADER_KEY).await? {
            Some(entry) if entry.mod_revision == self.fence() => Ok(()),
            entry => Err(StoreError::NotLeader {
                holder: entry.map(|e| String::from_utf8_lossy(&e.value).into_owned()),
            }),
        }
    }
}
