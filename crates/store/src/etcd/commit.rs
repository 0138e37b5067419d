//! Transactions as etcd takes them, made once however often they are sent.

use std::collections::BTreeSet;

use etcd_client::proto::{PbTxnOpResponse, PbTxnResponse};
use etcd_client::{
    Compare as WireCompare, CompareOp, PutOptions, Txn as WireTxn, TxnOp, TxnResponse,
};

use super::answers::{revision, signed, to_revision};
use super::slots::Slot;
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
                let (mut kv, mut request) = (link.kv(), request.clone());
                if attempt > 1 {
                    request = request.or_else([inquiry(&slot, &mark, lease)]);
                }
                async move { kv.txn(request).await }
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
) -> WireTxn {
    let compares = txn.compares.iter().map(|c| to_compare(keys, c));
    let ops = txn.ops.iter().map(|op| to_op(keys, op));
    let left = put(mark.to_vec(), own(slot), lease);
    WireTxn::new()
        .when(compares.chain([unused(slot, mark)]).collect::<Vec<_>>())
        .and_then(ops.chain([left]).collect::<Vec<_>>())
}

/// Nothing has been in the slot since the commit before.
fn unused(slot: &Slot<'_>, mark: &[u8]) -> WireCompare {
    WireCompare::mod_revision(mark, CompareOp::Equal, signed(slot.last.0))
}

/// What a repeated attempt does when it cannot be made: in a slot that is as it was it leaves a mark by
/// which no earlier one can be made any more, or else it tells what an earlier one left there. One that
/// comes so late that the slot is another commit's by then changes nothing.
fn inquiry(slot: &Slot<'_>, mark: &[u8], lease: Option<LeaseId>) -> TxnOp {
    let inquiry = WireTxn::new()
        .when([unused(slot, mark)])
        .and_then([put(mark.to_vec(), VOID.to_vec(), lease)])
        .or_else([TxnOp::get(mark, None)]);
    TxnOp::txn(inquiry)
}

fn own(slot: &Slot<'_>) -> Vec<u8> {
    slot.mark.to_string().into_bytes()
}

fn made(answer: &TxnResponse, slot: &Slot<'_>) -> Result<Made, StoreError> {
    let at = revision(answer.header());
    if answer.succeeded() {
        return Ok(Made::Yes(at));
    }
    match first(&answer.0) {
        None => Ok(Made::No(slot.last)),
        Some(Some(PbTxnOpResponse::ResponseTxn(inquiry))) if inquiry.succeeded => Ok(Made::No(at)),
        Some(Some(PbTxnOpResponse::ResponseTxn(inquiry))) => {
            let found = match first(inquiry) {
                Some(Some(PbTxnOpResponse::ResponseRange(range))) => range.kvs.first(),
                _ => None,
            };
            let found = found.ok_or_else(|| unreadable(slot))?;
            let last = to_revision(found.mod_revision);
            if found.value == own(slot) {
                Ok(Made::Yes(last))
            } else {
                // An earlier attempt could not be made either.
                Ok(Made::No(last))
            }
        }
        Some(_) => Err(unreadable(slot)),
    }
}

/// What the first operation came to: `None` when there was none.
fn first(answer: &PbTxnResponse) -> Option<Option<&PbTxnOpResponse>> {
    answer.responses.first().map(|op| op.response.as_ref())
}

fn unreadable(slot: &Slot<'_>) -> StoreError {
    StoreError::Unknown(format!("etcd's answer lacks the mark {}", slot.mark))
}

fn to_op(keys: &Keys, op: &Op) -> TxnOp {
    let key = keys.data(op.key());
    match op {
        Op::Put { value, lease, .. } => put(key, value.clone(), *lease),
        Op::Delete { .. } => TxnOp::delete(key, None),
    }
}

/// Absent keys have revisions 0 in etcd, so "at revision 0" would hold for them.
fn to_compare(keys: &Keys, condition: &Compare) -> WireCompare {
    let key = keys.data(condition.key());
    match condition {
        Compare::Exists(_) => WireCompare::create_revision(key, CompareOp::Greater, 0),
        Compare::Absent(_) => WireCompare::create_revision(key, CompareOp::Equal, 0),
        Compare::ModRevision(_, Revision(0)) | Compare::CreateRevision(_, Revision(0)) => {
            WireCompare::create_revision(key, CompareOp::Less, 0)
        }
        Compare::ModRevision(_, revision) => {
            WireCompare::mod_revision(key, CompareOp::Equal, signed(revision.0))
        }
        Compare::CreateRevision(_, revision) => {
            WireCompare::create_revision(key, CompareOp::Equal, signed(revision.0))
        }
    }
}

fn put(key: Vec<u8>, value: Vec<u8>, lease: Option<LeaseId>) -> TxnOp {
    let leased = lease.map(|lease| PutOptions::new().with_lease(signed(lease.0)));
    TxnOp::put(key, value, leased)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use espalier_tests::Etcd as Server;

    use super::*;
    use crate::EtcdOptions;

    async fn leading(server: &Server) -> (Etcd, Term) {
        let options = EtcdOptions {
            endpoints: server.endpoints(),
            // The tests renew nothing.
            leader_ttl: Duration::from_secs(60),
            ..EtcdOptions::default()
        };
        let etcd = Etcd::connect(options).await.expect("connects");
        let term = etcd.win("a").await.expect("leads");
        (etcd, term)
    }

    async fn send(etcd: &Etcd, request: &WireTxn) -> TxnResponse {
        let call = etcd.members.call(|link, _| {
            let (mut kv, request) = (link.kv(), request.clone());
            async move { kv.txn(request).await }
        });
        call.await.unwrap_or_else(|_| panic!("answers"))
    }

    /// A request is in no order with those that come after it: a member that was cut off passes it on when it
    /// is back.
    #[tokio::test]
    async fn an_attempt_that_comes_when_its_slot_is_anothers_changes_nothing() {
        let Some(server) = Server::start(1, &[]) else {
            return;
        };
        let (etcd, term) = leading(&server).await;
        let lease = term.lease.map(|(_, lease)| lease);
        let txn = |key: &str| Txn::new().then(Op::put(key, "1"));

        let slot = term.slots.take().await.expect("is free");
        let mark = etcd.keys.mark(term.fence, slot.number);
        let first = guarded(&etcd.keys, &txn("k/1"), &slot, &mark, lease);
        let late = first.clone().or_else([inquiry(&slot, &mark, lease)]);
        let made_first = made(&send(&etcd, &first).await, &slot).expect("is told");
        let Made::Yes(revision) = made_first else {
            panic!("{made_first:?}");
        };
        // The answer to the first attempt was lost, and the second is on its way when the third tells.
        assert_eq!(
            made(&send(&etcd, &late).await, &slot).expect("is told"),
            made_first
        );
        slot.free(revision);
        for key in ["k/2", "k/3", "k/4"] {
            let outcome = etcd.settle(&term, txn(key)).await.expect("is told");
            assert!(
                matches!(outcome, Outcome::Committed(_)),
                "{key}: {outcome:?}"
            );
            assert!(!send(&etcd, &late).await.succeeded());
        }
    }

    #[tokio::test]
    async fn what_could_not_be_made_is_told_so_at_each_attempt_and_is_never_made() {
        let Some(server) = Server::start(1, &[]) else {
            return;
        };
        let (etcd, term) = leading(&server).await;
        let lease = term.lease.map(|(_, lease)| lease);
        let held = Txn::new()
            .when(Compare::Absent("k".to_owned()))
            .then(Op::put("k", "1"));
        etcd.settle(&term, held.clone()).await.expect("is told");

        let slot = term.slots.take().await.expect("is free");
        let mark = etcd.keys.mark(term.fence, slot.number);
        let first = guarded(&etcd.keys, &held, &slot, &mark, lease);
        let again = first.clone().or_else([inquiry(&slot, &mark, lease)]);
        let told = made(&send(&etcd, &again).await, &slot).expect("is told");
        assert!(
            matches!(told, Made::No(last) if last > slot.last),
            "{told:?}"
        );
        // Another attempt finds the same, and even where the condition holds now, the first comes too late.
        assert_eq!(
            made(&send(&etcd, &again).await, &slot).expect("is told"),
            told
        );
        let gone = Txn::new().then(Op::delete("k"));
        etcd.settle(&term, gone).await.expect("is told");
        assert!(!send(&etcd, &first).await.succeeded());
        let Made::No(last) = told else { unreachable!() };
        slot.free(last);
        let outcome = etcd.settle(&term, held).await.expect("is told");
        assert!(matches!(outcome, Outcome::Committed(_)), "{outcome:?}");
    }
}
