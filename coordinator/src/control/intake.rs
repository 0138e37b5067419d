//! Submits: all that wait for the loop go into a few transactions that are under way together, for it is
//! the store's commit that takes the time.

use std::collections::HashSet;

use espalier_store::{Compare, Limits, Op, Outcome, Txn};
use futures_util::future::join_all;
use tracing::info;

use super::handle::{Command, Reply, Submission};
use super::{Control, MAX_JOBS};
use crate::clock::wall;
use crate::codec::{decode, encode};
use crate::error::Error;
use crate::job::{Edit, JobId, Record, Snapshot};
use crate::keys;

/// Most jobs accepted at once.
const BATCH: usize = 128;

/// Operations of an accepted job, its request's included; of its conditions there are no more.
const OPS: usize = 4;

/// A submit, and where its answer goes.
pub(super) struct Submit {
    pub(super) submission: Submission,
    pub(super) reply: Reply<Snapshot>,
}

/// Jobs that are accepted in one transaction.
struct Share {
    submits: Vec<Submit>,
    records: Vec<Record>,
    txn: Txn,
}

impl Control {
    /// The submits that wait behind this one, and the command that ended the search.
    pub(super) fn gather(&mut self, first: Submit) -> (Vec<Submit>, Option<Command>) {
        let mut batch = vec![first];
        while batch.len() < BATCH {
            match self.commands.try_recv() {
                Ok(Command::Submit(submission, reply)) => batch.push(Submit { submission, reply }),
                Ok(other) => return (batch, Some(other)),
                Err(_) => break,
            }
        }
        (batch, None)
    }

    /// Accepts the jobs. Those that ask are told that the coordinator is stopping when this fails.
    pub(super) async fn accept(&mut self, batch: Vec<Submit>) -> Result<(), Error> {
        let rest = if batch.len() > 1 && self.look_new(&batch) {
            self.accept_all(batch).await?
        } else {
            batch
        };
        for Submit { submission, reply } in rest {
            reply.send(self.submit(submission).await)?;
        }
        Ok(())
    }

    /// Whether all are new jobs, as far as it is seen without the store.
    fn look_new(&self, batch: &[Submit]) -> bool {
        let mut requests = HashSet::new();
        self.jobs.len() + batch.len() <= MAX_JOBS
            && batch.iter().all(|Submit { submission, .. }| {
                let queue = &submission.spec.resources.queue;
                requests.insert(&submission.request_id) && self.check_queue(queue).is_ok()
            })
    }

    /// Accepts those that are new jobs. Returns the others, and those beside which somebody else wrote.
    async fn accept_all(&mut self, batch: Vec<Submit>) -> Result<Vec<Submit>, Error> {
        let counter = self.store().get(keys::JOB_COUNTER).await?;
        let mut last = counter
            .as_ref()
            .map(decode::<u64>)
            .transpose()?
            .unwrap_or(0);
        let mut shares = Vec::new();
        for submits in split(batch, self.store().limits()) {
            let first = last + 1;
            last += submits.len() as u64;
            shares.push(self.share(submits, first).await?);
        }
        let mut shares = shares.into_iter();
        let Some(mut first) = shares.next() else {
            return Ok(Vec::new());
        };
        let txn = std::mem::take(&mut first.txn)
            .when(Compare::unchanged(keys::JOB_COUNTER, counter.as_ref()))
            .then(Op::put(keys::JOB_COUNTER, encode(&last)));
        // The numbers of all are taken before any other transaction uses one: a coordinator that ends in
        // between leaves numbers that no job has, never a job whose number is given again.
        let outcome = self.leader.commit(txn).await?;
        let mut rest = Vec::new();
        if outcome == Outcome::Conflict {
            rest.extend(first.submits);
            rest.extend(shares.flat_map(|share| share.submits));
            return Ok(rest);
        }
        self.answer(first, outcome, &mut rest)?;
        let mut shares: Vec<Share> = shares.collect();
        let commits = shares
            .iter_mut()
            .map(|share| self.leader.commit(std::mem::take(&mut share.txn)));
        let outcomes = join_all(commits).await;
        for (share, outcome) in shares.into_iter().zip(outcomes) {
            self.answer(share, outcome?, &mut rest)?;
        }
        Ok(rest)
    }

    /// The transaction of new jobs, numbered from `first` on.
    async fn share(&self, submits: Vec<Submit>, first: u64) -> Result<Share, Error> {
        let now = wall();
        let mut share = Share {
            records: Vec::with_capacity(submits.len()),
            txn: Txn::new(),
            submits,
        };
        for (number, Submit { submission, .. }) in (first..).zip(&share.submits) {
            let id = JobId::numbered(number);
            let spec_toml = submission.spec_toml.clone();
            let record = Record::accepted(id.clone(), &submission.spec, spec_toml, now);
            let job = Edit::accept(record.clone(), now)
                .into_txn(self.store())
                .await?;
            share.txn.compares.extend(job.compares);
            share.txn.ops.extend(job.ops);
            let request = keys::request(&submission.request_id);
            share.txn = share
                .txn
                .when(Compare::Absent(request.clone()))
                .then(Op::put(request, encode(&id)));
            share.records.push(record);
        }
        Ok(share)
    }

    /// Answers a share that was committed; one that was not joins the `rest`.
    fn answer(
        &mut self,
        share: Share,
        outcome: Outcome,
        rest: &mut Vec<Submit>,
    ) -> Result<(), Error> {
        let Outcome::Committed(revision) = outcome else {
            rest.extend(share.submits);
            return Ok(());
        };
        info!(jobs = share.records.len(), %revision, "jobs accepted");
        for (Submit { reply, .. }, record) in share.submits.into_iter().zip(share.records) {
            let job = Snapshot {
                record,
                revision,
                gang: None,
            };
            self.track(job.clone());
            reply.send(Ok(job))?;
        }
        Ok(())
    }
}

/// In shares that fit into a transaction each.
fn split(batch: Vec<Submit>, limits: Limits) -> Vec<Vec<Submit>> {
    let most = (limits.ops / OPS - 1).max(1);
    let mut shares: Vec<Vec<Submit>> = Vec::new();
    let mut room = 0;
    for submit in batch {
        // As JSON a text may be twice as long, and half a transaction is for the rest.
        let bytes = 4 * submit.submission.spec_toml.len();
        match shares.last_mut() {
            Some(share) if share.len() < most && bytes <= room => share.push(submit),
            _ => {
                room = limits.bytes;
                shares.push(vec![submit]);
            }
        }
        room = room.saturating_sub(bytes);
    }
    shares
}
