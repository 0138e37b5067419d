//! Which gangs this worker runs. Pure: a message changes the state and gives the actions to take,
//! each with its reason.

use std::collections::{BTreeMap, BTreeSet};

use espalier_proto::v1::{Revoke, StartGang};

use super::key::GangKey;

/// Jobs whose newest generation is remembered after their gangs have ended.
const REMEMBERED_JOBS: usize = 10_000;

/// What the agent is to do.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Action {
    /// Run a gang's ranks in these slots.
    Start {
        gang: GangKey,
        order: Box<StartGang>,
        slots: Vec<u32>,
    },
    /// Kill a gang's ranks and report nothing more about it.
    Stop { gang: GangKey, reason: String },
    /// Report these ranks of a gang that is not run as failed.
    Refuse {
        gang: GangKey,
        ranks: Vec<u32>,
        reason: String,
    },
    /// Do nothing.
    Ignore { gang: GangKey, reason: String },
}

/// The gangs of this worker.
#[derive(Debug)]
pub(crate) struct State {
    slots: u32,
    /// Newest generation heard of, by job: an older one is never started.
    newest: BTreeMap<String, u64>,
    /// Slots of each gang that is to run. A gang being stopped has given its slots back: whoever
    /// starts in them waits until it is gone.
    running: BTreeMap<GangKey, Vec<u32>>,
}

impl State {
    /// A worker that runs nothing in `slots` slots.
    pub(crate) fn new(slots: u32) -> Self {
        Self {
            slots,
            newest: BTreeMap::new(),
            running: BTreeMap::new(),
        }
    }

    /// Gangs that are to run.
    pub(crate) fn running(&self) -> impl Iterator<Item = &GangKey> {
        self.running.keys()
    }

    /// The coordinator asks for a gang's ranks.
    pub(crate) fn start(&mut self, order: StartGang) -> Vec<Action> {
        let gang = GangKey::new(&order.job_id, order.generation);
        if let Some(&newest) = self.newest.get(&gang.job_id)
            && gang.generation <= newest
        {
            let reason = format!("generation {newest} of the job is known already");
            return vec![Action::Ignore { gang, reason }];
        }
        self.remember(&gang);
        let mut actions = self.supersede(&gang);
        actions.push(match self.place(&order) {
            Ok(slots) => {
                self.running.insert(gang.clone(), slots.clone());
                let order = Box::new(order);
                Action::Start { gang, order, slots }
            }
            Err(reason) => Action::Refuse {
                gang,
                ranks: ranks(&order).unwrap_or_default(),
                reason,
            },
        });
        actions
    }

    /// The coordinator takes a gang back. A start of it that arrives later is ignored.
    pub(crate) fn revoke(&mut self, revoke: &Revoke) -> Action {
        let gang = GangKey::new(&revoke.job_id, revoke.generation);
        self.remember(&gang);
        match self.running.remove(&gang) {
            Some(_) => Action::Stop {
                gang,
                reason: format!("revoked: {}", revoke.reason),
            },
            None => Action::Ignore {
                gang,
                reason: "it does not run here".to_owned(),
            },
        }
    }

    /// A gang's ranks have ended by themselves, or the coordinator has refused it.
    pub(crate) fn ended(&mut self, gang: &GangKey) {
        self.running.remove(gang);
    }

    fn supersede(&mut self, gang: &GangKey) -> Vec<Action> {
        let older: Vec<GangKey> = self
            .running
            .keys()
            .filter(|running| running.job_id == gang.job_id)
            .cloned()
            .collect();
        let stop = |old: GangKey| {
            self.running.remove(&old);
            Action::Stop {
                gang: old,
                reason: format!("superseded by generation {}", gang.generation),
            }
        };
        older.into_iter().map(stop).collect()
    }

    /// The lowest free slots, one for each rank.
    fn place(&self, order: &StartGang) -> Result<Vec<u32>, String> {
        let ranks = ranks(order).ok_or_else(|| {
            format!(
                "ranks {}..+{} do not fit in a gang of {}",
                order.first_rank, order.rank_count, order.world_size
            )
        })?;
        let used: BTreeSet<u32> = self.running.values().flatten().copied().collect();
        let free: Vec<u32> = (0..self.slots)
            .filter(|slot| !used.contains(slot))
            .take(ranks.len())
            .collect();
        if free.len() < ranks.len() {
            return Err(format!(
                "{} ranks asked for, {} of {} slots are free",
                ranks.len(),
                free.len(),
                self.slots
            ));
        }
        Ok(free)
    }

    /// Generations grow over all jobs, so the smallest is the one heard of longest ago.
    fn remember(&mut self, gang: &GangKey) {
        let newest = self.newest.entry(gang.job_id.clone()).or_default();
        *newest = gang.generation.max(*newest);
        if self.newest.len() > REMEMBERED_JOBS {
            let oldest = self
                .newest
                .iter()
                .min_by_key(|(_, generation)| **generation);
            if let Some(job_id) = oldest.map(|(job_id, _)| job_id.clone()) {
                self.newest.remove(&job_id);
            }
        }
    }
}

/// The ranks of an order; `None` when they are none or not within the gang.
fn ranks(order: &StartGang) -> Option<Vec<u32>> {
    let end = order.first_rank.checked_add(order.rank_count)?;
    (order.rank_count > 0 && end <= order.world_size).then(|| (order.first_rank..end).collect())
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
