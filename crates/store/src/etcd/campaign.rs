//! Becoming the leader: the first to put its name on a lease of its own leads, until the lease ends.

use std::time::Duration;

use etcd_client::proto::PbTxnOpResponse;
use etcd_client::{Compare, CompareOp, GetOptions, PutOptions, Txn, TxnOp};
use tokio::time::timeout;

use super::Etcd;
use super::answers::{revision, signed, to_revision};
use crate::backend::{Backend as _, Term};
use crate::etcd::Slots;
use crate::leader::LEADER_KEY;
use crate::{LeaseId, Revision, StoreError};

/// Time after which a candidate looks again, should its watch hang.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

impl Etcd {
    /// Waits until nobody leads, and tries to be first.
    pub(super) async fn win(&self, id: &str) -> Result<Term, StoreError> {
        loop {
            let key = self.keys.data(LEADER_KEY);
            let answer = self.read(key, GetOptions::new()).await?;
            if answer.kvs().is_empty() {
                if let Some(term) = self.stand(id).await? {
                    return Ok(term);
                }
            } else {
                let from = revision(answer.header()).next();
                let mut watch = self.watch(LEADER_KEY.to_owned(), from);
                // Whatever it says, the key tells better.
                let _ = timeout(LOOK_AGAIN, watch.next()).await;
            }
        }
    }

    /// One try; `None` when somebody else was first.
    async fn stand(&self, id: &str) -> Result<Option<Term>, StoreError> {
        let (lease, ttl) = self.grant_lease(self.options.leader_ttl).await?;
        match self.put_name(id, lease).await {
            Ok(Some(fence)) => Ok(Some(Term {
                fence,
                lease: Some((ttl, lease)),
                slots: Slots::default(),
            })),
            lost => {
                // Without its lease a try that is still under way cannot win. If this fails, the
                // lease ends by itself.
                let _ = self.revoke(lease).await;
                lost.map(|_| None)
            }
        }
    }

    async fn put_name(&self, id: &str, lease: LeaseId) -> Result<Option<Revision>, StoreError> {
        let key = self.keys.data(LEADER_KEY);
        let leased = PutOptions::new().with_lease(signed(lease.0));
        let txn = Txn::new()
            .when([Compare::create_revision(key.clone(), CompareOp::Equal, 0)])
            .and_then([TxnOp::put(key.clone(), id, Some(leased))])
            .or_else([TxnOp::get(key, None)]);
        let answer = self
            .members
            .call(|link, _| {
                let (mut kv, txn) = (link.kv(), txn.clone());
                async move { kv.txn(txn).await }
            })
            .await
            .map_err(|failure| failure.unknown())?;
        if answer.succeeded() {
            return Ok(Some(revision(answer.header())));
        }
        // An earlier attempt whose answer was lost may have won.
        let response = answer.0.responses.into_iter().next();
        let found = match response.and_then(|op| op.response) {
            Some(PbTxnOpResponse::ResponseRange(range)) => range.kvs.into_iter().next(),
            _ => None,
        };
        Ok(found
            .filter(|kv| kv.lease == signed(lease.0))
            .map(|kv| to_revision(kv.mod_revision)))
    }
}
