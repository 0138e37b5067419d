//! Transactions as etcd takes them, made once however often they are sent.

use std::collections::BTreeSet;

use super::answers::{revision, signed, to_revision};
use super::slots::Slot;
use super::wire::compare::{CompareResult, CompareTarget, TargetUnion};
use super::wire::request_op::Request;
use super::wire::response_op::Response;
use super::wire::{
    Compare as WireCompare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, ResponseOp,
    TxnRequest, TxnResponse,
};
use super::{Etcd, Keys};
use crate::backend::Term;
use crate::{Compare, LeaseId, Op, Outcome, Revision, StoreError, Txn};

/// Mark of a slot whose commit must not come any more.
const VOID: &[u8] = b"void";

/// Bytes of a request that are neither our keys nor our values: the prefix before each key, tags and
/// lengths, the fence and the marks.
pub(super) fn overhead(prefix: &str, ops: usize) -> usize {
    (prefix.len() + 64) * 2 * (ops + 8)
}

/// What came of an attempt.
#[derive(Debug, PartialEq, Eq)]
enum Made {
    /// This attempt or an earlier one, as this revision.
    Yes(Revision),
    /// A condition did not hold, and no earlier attempt that is still under way can be made; the
    /// slot's key is at this revision.
    No(Revision),
}

impl Etcd {
    /// Sends the transaction until etcd says what came of it.
    pub(super) async fn settle(&self, term: &Term, txn: Txn) -> Result<Outcome, StoreError> {
        let slot = term.slots.take().await?;
        let mark = self.keys.mark(term.fence, slot.number);
        let lease = term.lease.map(|(_, lease)| lease);
        let request = guarded(&self.keys, &txn, &slot, &mark, lease);
        let answer = self
            .members
            .call(|link, attempt| {
                let mut message = request.clone();
                if attempt > 1 {
                    message.failure = inquiry(&slot, &mark, lease);
                }
                let request = link.request(message);
                async move { link.kv().txn(request).await }
            })
            .await;
        let failure = match answer {
            Ok(answer) => {
                let (outcome, last) = match made(&answer, &slot)? {
                    Made::Yes(revision) => (Outcome::Committed(revision), revision),
                    Made::No(last) => (Outcome::Conflict, last),
                };
                slot.free(last);
                return Ok(outcome);
            }
            Err(failure) => failure,
        };
        if failure.is_lease_not_found() {
            return self.missing_lease(term, &txn).await;
        }
        Err(failure.unknown())
    }

    /// Which lease it was. When it was the leader's own, nothing of its term can be written any more,
    /// and the fence says so.
    async fn missing_lease(&self, term: &Term, txn: &Txn) -> Result<Outcome, StoreError> {
        let leases: BTreeSet<LeaseId> = txn
            .ops
            .iter()
            .filter_map(|op| match op {
                Op::Put { lease, .. } => *lease,
                Op::Delete { .. } => None,
            })
            .collect();
        for lease in leases {
            if self.time_to_live(lease).await?.is_none() {
                return Err(StoreError::LeaseNotFound(lease.0));
            }
        }
        match term.lease {
            Some((_, lease)) if self.time_to_live(lease).await?.is_some() => Err(
                StoreError::Unknown("a lease vanished and came back".to_owned()),
            ),
            _ => Ok(Outcome::Conflict),
        }
    }
}

/// The transaction, which leaves its mark in the slot if it is made, and is made only if nothing has
/// been there since the commit before.
fn guarded(
    keys: &Keys,
    txn: &Txn,
    slot: &Slot<'_>,
    mark: &[u8],
    lease: Option<LeaseId>,
) -> TxnRequest {
    let unused = compare(
        mark.to_vec(),
        CompareResult::Equal,
        CompareTarget::Mod,
        TargetUnion::ModRevision(signed(slot.last.0)),
    );
    let compares = txn.compares.iter().map(|c| to_compare(keys, c));
    let ops = txn.ops.iter().map(|op| to_op(keys, op));
    TxnRequest {
        compare: compares.chain([unused]).collect(),
        success: ops.chain([put(mark.to_vec(), own(slot), lease)]).collect(),
        failure: Vec::new(),
    }
}

/// What a repeated attempt does when it cannot be made: it tells the mark, if an earlier one left it,
/// or else leaves one by which no earlier one can be made any more.
fn inquiry(slot: &Slot<'_>, mark: &[u8], lease: Option<LeaseId>) -> Vec<RequestOp> {
    let left = compare(
        mark.to_vec(),
        CompareResult::Equal,
        CompareTarget::Value,
        TargetUnion::Value(own(slot)),
    );
    let look = RangeRequest {
        key: mark.to_vec(),
        ..RangeRequest::default()
    };
    vec![request(Request::RequestTxn(TxnRequest {
        compare: vec![left],
        success: vec![request(Request::RequestRange(look))],
        failure: vec![put(mark.to_vec(), VOID.to_vec(), lease)],
    }))]
}

fn own(slot: &Slot<'_>) -> Vec<u8> {
    slot.mark.to_string().into_bytes()
}

fn made(answer: &TxnResponse, slot: &Slot<'_>) -> Result<Made, StoreError> {
    let at = revision(answer.header.as_ref());
    if answer.succeeded {
        return Ok(Made::Yes(at));
    }
    match answer.responses.first().map(|r| r.response.as_ref()) {
        None => Ok(Made::No(slot.last)),
        Some(Some(Response::ResponseTxn(inquiry))) if inquiry.succeeded => {
            let found = match inquiry.responses.first() {
                Some(ResponseOp {
                    response: Some(Response::ResponseRange(range)),
                }) => range.kvs.first(),
                _ => None,
            };
            let found = found.ok_or_else(|| unreadable(slot))?;
            Ok(Made::Yes(to_revision(found.mod_revision)))
        }
        Some(Some(Response::ResponseTxn(_))) => Ok(Made::No(at)),
        Some(_) => Err(unreadable(slot)),
    }
}

fn unreadable(slot: &Slot<'_>) -> StoreError {
    StoreError::Unknown(format!("etcd's answer lacks the mark {}", slot.mark))
}

fn to_op(keys: &Keys, op: &Op) -> RequestOp {
    let key = keys.data(op.key());
    match op {
        Op::Put { value, lease, .. } => put(key, value.clone(), *lease),
        Op::Delete { .. } => request(Request::RequestDeleteRange(DeleteRangeRequest { key })),
    }
}

/// Absent keys have revisions 0 in etcd, so "at revision 0" would hold for them.
fn to_compare(keys: &Keys, condition: &Compare) -> WireCompare {
    let key = keys.data(condition.key());
    let created = |result| {
        compare(
            key.clone(),
            result,
            CompareTarget::Create,
            TargetUnion::CreateRevision(0),
        )
    };
    match condition {
        Compare::Exists(_) => created(CompareResult::Greater),
        Compare::Absent(_) => created(CompareResult::Equal),
        Compare::ModRevision(_, Revision(0)) | Compare::CreateRevision(_, Revision(0)) => {
            created(CompareResult::Less)
        }
        Compare::ModRevision(_, revision) => compare(
            key,
            CompareResult::Equal,
            CompareTarget::Mod,
            TargetUnion::ModRevision(signed(revision.0)),
        ),
        Compare::CreateRevision(_, revision) => compare(
            key,
            CompareResult::Equal,
            CompareTarget::Create,
            TargetUnion::CreateRevision(signed(revision.0)),
        ),
    }
}

fn compare(
    key: Vec<u8>,
    result: CompareResult,
    target: CompareTarget,
    value: TargetUnion,
) -> WireCompare {
    WireCompare {
        result: result.into(),
        target: target.into(),
        key,
        target_union: Some(value),
    }
}

fn put(key: Vec<u8>, value: Vec<u8>, lease: Option<LeaseId>) -> RequestOp {
    request(Request::RequestPut(PutRequest {
        key,
        value,
        lease: lease.map_or(0, |lease| signed(lease.0)),
    }))
}

fn request(request: Request) -> RequestOp {
    RequestOp {
        request: Some(request),
    }
}
