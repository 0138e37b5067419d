//! Becoming the leader: the first to put its name on a lease of its own leads, until the lease ends.

use std::time::Duration;

use tokio::time::timeout;

use super::Etcd;
use super::answers::{revision, signed, to_revision};
use super::wire::compare::{CompareResult, CompareTarget, TargetUnion};
use super::wire::request_op::Request;
use super::wire::response_op::Response;
use super::wire::{Compare, PutRequest, RangeRequest, RequestOp, ResponseOp, TxnRequest};
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
            let request = RangeRequest {
                key: self.keys.data(LEADER_KEY),
                ..RangeRequest::default()
            };
            let answer = self.read(request).await?;
            if answer.kvs.is_empty() {
                if let Some(term) = self.stand(id).await? {
                    return Ok(term);
                }
            } else {
                let from = revision(answer.header.as_ref()).next();
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
        let op = |request| RequestOp {
            request: Some(request),
        };
        let txn = TxnRequest {
            compare: vec![Compare {
                result: CompareResult::Equal.into(),
                target: CompareTarget::Create.into(),
                key: key.clone(),
                target_union: Some(TargetUnion::CreateRevision(0)),
            }],
            success: vec![op(Request::RequestPut(PutRequest {
                key: key.clone(),
                value: id.as_bytes().to_vec(),
                lease: signed(lease.0),
            }))],
            failure: vec![op(Request::RequestRange(RangeRequest {
                key,
                ..RangeRequest::default()
            }))],
        };
        let answer = self
            .members
            .call(|link, _| {
                let request = link.request(txn.clone());
                async move { link.kv().txn(request).await }
            })
            .await
            .map_err(|failure| failure.unknown())?;
        if answer.succeeded {
            return Ok(Some(revision(answer.header.as_ref())));
        }
        // An earlier attempt whose answer was lost may have won.
        let found = match answer.responses.into_iter().next() {
            Some(ResponseOp {
                response: Some(Response::ResponseRange(range)),
            }) => range.kvs.into_iter().next(),
            _ => None,
        };
        Ok(found
            .filter(|kv| kv.lease == signed(lease.0))
            .map(|kv| to_revision(kv.mod_revision)))
    }
}
