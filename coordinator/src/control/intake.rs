//! Submits: all that wait for the loop go into one transaction, for it is the store's commit that
//! takes the time.

use espalier_store::{Compare, Op, Outcome, Txn};
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

impl Control {
    /// The submits that wait behind this one and fit into one transaction with it, and the command
    /// that ended the search.
    pub(super) fn gather(&mut self, first: Submit) -> (Vec<Submit>, Option<Command>) {
        let limits = self.store().limits();
        let most = BATCH.min(limits.ops / OPS - 1);
        // As JSON a text may be twice as long.
        let mut room = (limits.bytes / 4).saturating_sub(first.submission.spec_toml.len());
        let mut batch = vec![first];
        while batch.len() < most && room > 0 {
            match self.commands.try_recv() {
                Ok(Command::Submit(submission, reply)) => {
                    room = room.saturating_sub(submission.spec_toml.len());
                    batch.push(Submit { submission, reply });
                }
                Ok(other) => return (batch, Some(other)),
                Err(_) => break,
            }
        }
        (batch, None)
    }

    /// Accepts the jobs. Those that ask is told that the coordinator is stopping when this fails.
    pub(super) async fn accept(&mut self, batch: Vec<Submit>) -> Result<(), Error> {
        if batch.len() > 1
            && self.jobs.len() + batch.len() <= MAX_JOBS
            && let Some(jobs) = self.accept_all(&batch).await?
        {
            for (submit, job) in batch.into_iter().zip(jobs) {
                submit.reply.send(Ok(job))?;
            }
            return Ok(());
        }
        for Submit { submission, reply } in batch {
            reply.send(self.submit(submission).await)?;
        }
        Ok(())
    }

    /// All of them, as new jobs; `None` when one of them is not, or somebody else wrote.
    async fn accept_all(&mut self, batch: &[Submit]) -> Result<Option<Vec<Snapshot>>, Error> {
        let unknown = |s: &Submit| {
            self.check_queue(&s.submission.spec.resources.queue)
                .is_err()
        };
        if batch.iter().any(unknown) {
            return Ok(None);
        }
        let counter = self.store().get(keys::JOB_COUNTER).await?;
        let mut number = counter
            .as_ref()
            .map(decode::<u64>)
            .transpose()?
            .unwrap_or(0);
        let now = wall();
        let mut txn = Txn::new().when(Compare::unchanged(keys::JOB_COUNTER, counter.as_ref()));
        let mut records = Vec::with_capacity(batch.len());
        for Submit { submission, .. } in batch {
            number += 1;
            let id = JobId::numbered(number);
            let spec_toml = submission.spec_toml.clone();
            let record = Record::accepted(id.clone(), &submission.spec, spec_toml, now);
            let job = Edit::accept(record.clone(), now)
                .into_txn(self.store())
                .await?;
            txn.compares.extend(job.compares);
            txn.ops.extend(job.ops);
            let request = keys::request(&submission.request_id);
            if txn.ops.iter().any(|op| op.key() == request) {
                return Ok(None);
            }
            txn = txn
                .when(Compare::Absent(request.clone()))
                .then(Op::put(request, encode(&id)));
            records.push(record);
        }
        txn = txn.then(Op::put(keys::JOB_COUNTER, encode(&number)));
        let Outcome::Committed(revision) = self.leader.commit(txn).await? else {
            return Ok(None);
        };
        info!(jobs = records.len(), last = %JobId::numbered(number), "jobs accepted");
        let accepted = records.into_iter().map(|record| Snapshot {
            record,
            revision,
            gang: None,
        });
        let accepted: Vec<Snapshot> = accepted.collect();
        for job in &accepted {
            self.track(job.clone());
        }
        Ok(Some(accepted))
    }
}
