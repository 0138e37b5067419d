//! The queues, as operators set them.

use std::collections::BTreeSet;

use espalier_job::Device;
use espalier_proto::v1;
use espalier_store::{Op, Txn};
use tracing::info;

use super::{Control, all};
use crate::codec::{decode, encode};
use crate::error::Error;
use crate::keys;
use crate::queue::{DEFAULT, Queue};

/// Most queues.
const MAX_QUEUES: usize = 1000;

impl Control {
    pub(super) async fn read_queues(&mut self) -> Result<(), Error> {
        for entry in all(self.store(), keys::QUEUES).await? {
            let name = entry.key.trim_start_matches(keys::QUEUES).to_owned();
            self.queues.insert(name, decode(&entry)?);
        }
        Ok(())
    }

    pub(super) async fn set_queue(&mut self, name: &str, queue: Queue) -> Result<v1::Queue, Error> {
        if !self.queues.contains_key(name) && self.queues.len() >= MAX_QUEUES {
            return Err(Error::TooManyQueues(MAX_QUEUES));
        }
        let put = Txn::new().then(Op::put(keys::queue(name), encode(&queue)));
        self.leader.commit(put).await?;
        self.queues.insert(name.to_owned(), queue);
        info!(queue = name, ?queue, "queue set");
        Ok(self.queue_wire(name))
    }

    pub(super) async fn delete_queue(&mut self, name: &str) -> Result<(), Error> {
        if !self.queues.contains_key(name) {
            return Err(Error::NoSuchQueue(name.to_owned()));
        }
        let of_queue = self.jobs.values();
        let jobs = of_queue
            .filter(|t| t.job.record.demand.queue == name)
            .count();
        if jobs > 0 && name != DEFAULT {
            let name = name.to_owned();
            return Err(Error::QueueInUse { name, jobs });
        }
        let delete = Txn::new().then(Op::delete(keys::queue(name)));
        self.leader.commit(delete).await?;
        self.queues.remove(name);
        info!(queue = name, "queue deleted");
        Ok(())
    }

    pub(super) fn list_queues(&self) -> Vec<v1::Queue> {
        let mut names: BTreeSet<&str> = self.queues.keys().map(String::as_str).collect();
        names.insert(DEFAULT);
        names
            .into_iter()
            .map(|name| self.queue_wire(name))
            .collect()
    }

    /// A job cannot wait in a queue that is not there: it would get round the others' quotas.
    pub(super) fn check_queue(&self, name: &str) -> Result<(), Error> {
        if name == DEFAULT || self.queues.contains_key(name) {
            return Ok(());
        }
        let known = self.queues.keys().filter(|known| *known != DEFAULT);
        Err(Error::UnknownQueue {
            name: name.to_owned(),
            known: known.cloned().collect(),
        })
    }

    /// Slots of a kind that the jobs of a queue have, with those of their recruits.
    pub(super) fn used_by(&self, queue: &str, device: Device) -> u32 {
        let demands = |t: &&super::Tracked| {
            let demand = &t.job.record.demand;
            demand.queue == queue && demand.device == device
        };
        let jobs = self.jobs.values().filter(demands);
        jobs.map(super::Tracked::slots).sum()
    }

    fn queue_wire(&self, name: &str) -> v1::Queue {
        let queue = self.queues.get(name).copied().unwrap_or_default();
        let jobs = self.jobs.values();
        let jobs: Vec<_> = jobs.filter(|t| t.job.record.demand.queue == name).collect();
        v1::Queue {
            name: name.to_owned(),
            weight: queue.weight,
            cpu_quota: queue.cpu,
            cuda_quota: queue.cuda,
            cpu_used: self.used_by(name, Device::Cpu),
            cuda_used: self.used_by(name, Device::Cuda),
            waiting: jobs.iter().filter(|t| t.waiting().is_some()).count() as u32,
            running: jobs.iter().filter(|t| t.gang().is_some()).count() as u32,
        }
    }
}
