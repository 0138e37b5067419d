//! Workers that take no gangs: after faults, or because an operator lets them run empty.

use std::collections::BTreeMap;
use std::time::Duration;

use espalier_proto::v1::Worker as WireWorker;
use espalier_store::{Op, Txn};
use tracing::{info, warn};

use super::{Control, all};
use crate::clock::wall;
use crate::codec::{decode, encode};
use crate::error::Error;
use crate::job::{Gang, JobId, State, Then};
use crate::keys;
use crate::standing::{Drain, FAULTS, Fault, Standing, blame};

impl Control {
    pub(super) async fn read_standings(&mut self) -> Result<(), Error> {
        for entry in all(self.store(), keys::STANDINGS).await? {
            let id = entry.key.trim_start_matches(keys::STANDINGS);
            if let Some(worker) = self.workers.get_mut(id) {
                worker.standing = decode(&entry)?;
            }
        }
        Ok(())
    }

    /// A rank on a worker has failed, and not by a fault of the job.
    pub(super) async fn note_fault(
        &mut self,
        worker: &str,
        job: &JobId,
        generation: u64,
        cause: &str,
    ) -> Result<(), Error> {
        let Some(known) = self.workers.get(worker) else {
            return Ok(());
        };
        let mut standing = known.standing.clone();
        let fault = Fault {
            job_id: job.clone(),
            generation,
            at: wall(),
        };
        let at = fault.at;
        if !standing.fault(fault) {
            return Ok(());
        }
        let others = self.workers.iter().filter(|(id, _)| *id != worker);
        let others = others.map(|(_, other)| &other.standing);
        if standing.is_open(at) && blame(&standing, others, at) >= FAULTS {
            let reason = standing.exclude(at, cause);
            warn!(worker, reason, "worker excluded");
        }
        self.put_standing(worker, standing).await
    }

    pub(super) async fn drain(
        &mut self,
        id: &str,
        reason: &str,
        within: Duration,
    ) -> Result<WireWorker, Error> {
        let worker = self.workers.get(id);
        let worker = worker.ok_or_else(|| Error::NoSuchWorker(id.to_owned()))?;
        let mut standing = worker.standing.clone();
        standing.drain = Some(Drain {
            deadline: wall().saturating_add(within.as_millis() as u64),
            reason: match reason {
                "" => "drained by an operator".to_owned(),
                given => format!("drained by an operator: {}", super::cut(given)),
            },
        });
        info!(worker = id, reason, "worker is drained");
        self.put_standing(id, standing).await?;
        self.worker_wire(id)
    }

    pub(super) async fn open(&mut self, id: &str) -> Result<WireWorker, Error> {
        if !self.workers.contains_key(id) {
            return Err(Error::NoSuchWorker(id.to_owned()));
        }
        info!(worker = id, "worker is opened");
        self.put_standing(id, Standing::default()).await?;
        self.worker_wire(id)
    }

    async fn put_standing(&mut self, id: &str, standing: Standing) -> Result<(), Error> {
        let key = keys::standing(id);
        let op = if standing == Standing::default() {
            Op::delete(key)
        } else {
            Op::put(key, encode(&standing))
        };
        self.leader.commit(Txn::new().then(op)).await?;
        if let Some(worker) = self.workers.get_mut(id) {
            worker.standing = standing;
        }
        Ok(())
    }

    /// The workers of a gang that are drained, and why.
    pub(super) fn drained(&self, gang: &Gang) -> BTreeMap<String, String> {
        let members = gang.members.iter();
        let drained = members.filter_map(|member| {
            let id = &member.worker_id;
            let drain = self.workers.get(id)?.standing.drain.as_ref()?;
            Some((id.clone(), format!("worker {id} is {}", drain.reason)))
        });
        drained.collect()
    }

    /// Evicts a gang that is still on a drained worker at its deadline.
    pub(super) async fn leave_drained(&mut self, id: &JobId) -> Result<(), Error> {
        let now = wall();
        let Some(tracked) = self.jobs.get(id) else {
            return Ok(());
        };
        let record = &tracked.job.record;
        let leaves = record.leave.is_some() || record.state == State::Publishing;
        let Some(gang) = tracked.gang().filter(|_| !leaves) else {
            return Ok(());
        };
        let overdue = gang.members.iter().find_map(|member| {
            let drain = self
                .workers
                .get(&member.worker_id)?
                .standing
                .drain
                .as_ref()?;
            (drain.deadline <= now).then(|| {
                let id = &member.worker_id;
                format!("evicted: worker {id} is {}", drain.reason)
            })
        });
        match overdue {
            Some(reason) => self.ask_to_leave(id, Then::Queued, &reason).await,
            None => Ok(()),
        }
    }
}
