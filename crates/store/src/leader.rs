use crate::{Compare, Outcome, Revision, Store, StoreError, Txn};

/// Holds the id of the leader; its mod revision is the leader's fence.
pub(crate) const LEADER_KEY: &str = "leader";

/// The right to write, won by [`Store::campaign`]. Clones share it. Each later campaign, by whomever,
/// ends it: from then on every write is refused with [`StoreError::NotLeader`].
#[derive(Clone, Debug)]
pub struct Leader {
    store: Store,
    id: String,
    fence: Revision,
}

impl Leader {
    pub(crate) fn new(store: Store, id: String, fence: Revision) -> Self {
        Self { store, id, fence }
    }

    /// The name under which it campaigned.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Revision of the campaign: a later leader has a larger one.
    pub fn fence(&self) -> Revision {
        self.fence
    }

    /// The store, for reading.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Makes the changes if every condition holds and this leader has not been replaced. When it
    /// answers, they are durable.
    ///
    /// # Errors
    /// [`StoreError::NotLeader`], [`StoreError::Invalid`], [`StoreError::LeaseNotFound`]; after
    /// [`StoreError::Backend`] or [`StoreError::Closed`] it is unknown whether they were made.
    pub async fn commit(&self, mut txn: Txn) -> Result<Outcome, StoreError> {
        txn.validate()?;
        txn.compares
            .push(Compare::ModRevision(LEADER_KEY.to_owned(), self.fence));
        let outcome = self.store.backend().commit(txn).await?;
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
            Some(entry) if entry.mod_revision == self.fence => Ok(()),
            entry => Err(StoreError::NotLeader {
                holder: entry.map(|e| String::from_utf8_lossy(&e.value).into_owned()),
            }),
        }
    }
}
