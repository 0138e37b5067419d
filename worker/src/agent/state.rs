//! Which ranks this worker runs. Pure: a message changes the state and gives the actions to take,
//! each with its reason.

use std::collections::{BTreeMap, BTreeSet};

use espalier_proto::v1::{Formation, Recruit, Revoke, StartGang};

use super::key::GangKey;

/// Jobs whose newest generation is remembered after their gangs have ended.
const REMEMBERED_JOBS: usize = 10_000;

/// What the agent is to do. A crew, the processes of a job on this worker, is named by the gang that it
/// began with, and outlives it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Action {
    /// Start a crew, each process in its slot.
    Start {
        crew: GangKey,
        order: Box<StartGang>,
        slots: BTreeMap<u64, u32>,
    },
    /// Lead a crew into a new generation.
    Regroup {
        crew: GangKey,
        order: Box<StartGang>,
    },
    /// Start further processes, in a crew or as a new one.
    Recruit {
        crew: GangKey,
        order: Box<Recruit>,
        slots: BTreeMap<u64, u32>,
        anew: bool,
    },
    /// Kill a crew and report nothing more about it up to this generation.
    Stop {
        crew: GangKey,
        generation: u64,
        reason: String,
    },
    /// Report these processes, each with its rank, as failed.
    Refuse {
        gang: GangKey,
        seats: BTreeMap<u64, u32>,
        reason: String,
    },
    /// Do nothing.
    Ignore { gang: GangKey, reason: String },
}

/// The crews of this worker.
#[derive(Debug)]
pub(crate) struct State {
    slots: u32,
    /// Newest generation heard of, by job: an older one is never started.
    newest: BTreeMap<String, u64>,
    /// The crew of each job that is to run. One being stopped has given its slots back: whoever starts in
    /// them waits until it is gone.
    crews: BTreeMap<String, Crew>,
}

#[derive(Debug)]
struct Crew {
    /// Generation that it began with.
    begun: u64,
    /// Generation that it is in.
    generation: u64,
    /// Slot of each process.
    slots: BTreeMap<u64, u32>,
}

impl State {
    /// A worker that runs nothing in `slots` slots.
    pub(crate) fn new(slots: u32) -> Self {
        Self {
            slots,
            newest: BTreeMap::new(),
            crews: BTreeMap::new(),
        }
    }

    /// Gangs that are to run.
    pub(crate) fn running(&self) -> impl Iterator<Item = GangKey> {
        self.crews
            .iter()
            .map(|(job_id, crew)| GangKey::new(job_id, crew.generation))
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
        let order = Box::new(order);
        let Some(seats) = seats(&order) else {
            let reason = format!(
                "ranks {}..+{} with {} seats do not fit in a gang of {}",
                order.first_rank,
                order.rank_count,
                order.seats.len(),
                order.world_size
            );
            return vec![Action::Refuse {
                gang,
                seats: BTreeMap::new(),
                reason,
            }];
        };
        if order.formation() != Formation::Fresh {
            return vec![self.regroup(gang, order, seats)];
        }
        let mut actions: Vec<Action> = self.supersede(&gang).into_iter().collect();
        actions.push(match self.free(&order.seats) {
            Ok(slots) => {
                let crew = Crew {
                    begun: gang.generation,
                    generation: gang.generation,
                    slots: slots.clone(),
                };
                self.crews.insert(gang.job_id.clone(), crew);
                Action::Start {
                    crew: gang,
                    order,
                    slots,
                }
            }
            Err(reason) => Action::Refuse {
                gang,
                seats,
                reason,
            },
        });
        actions
    }

    /// Processes that have no seat in the new generation are to go.
    fn regroup(
        &mut self,
        gang: GangKey,
        order: Box<StartGang>,
        seats: BTreeMap<u64, u32>,
    ) -> Action {
        let Some(crew) = self.crews.get_mut(&gang.job_id) else {
            return Action::Refuse {
                gang,
                seats,
                reason: "its processes have ended on this worker".to_owned(),
            };
        };
        crew.generation = gang.generation;
        crew.slots.retain(|seat, _| seats.contains_key(seat));
        Action::Regroup {
            crew: GangKey::new(&gang.job_id, crew.begun),
            order,
        }
    }

    /// The coordinator asks for processes that will join a gang.
    pub(crate) fn recruit(&mut self, mut order: Recruit) -> Action {
        let gang = GangKey::new(&order.job_id, order.generation);
        if self
            .newest
            .get(&gang.job_id)
            .is_some_and(|newest| order.generation < *newest)
        {
            let reason = "a newer generation of the job is known".to_owned();
            return Action::Ignore { gang, reason };
        }
        if let Some(crew) = self.crews.get(&gang.job_id) {
            order.seats.retain(|seat| !crew.slots.contains_key(seat));
        }
        if order.seats.is_empty() {
            let reason = "the recruits run already".to_owned();
            return Action::Ignore { gang, reason };
        }
        self.remember(&gang);
        let slots = match self.free(&order.seats) {
            Ok(slots) => slots,
            Err(reason) => {
                return Action::Refuse {
                    gang,
                    seats: order.seats.iter().map(|seat| (*seat, 0)).collect(),
                    reason,
                };
            }
        };
        let anew = !self.crews.contains_key(&gang.job_id);
        let crew = self
            .crews
            .entry(gang.job_id.clone())
            .or_insert_with(|| Crew {
                begun: gang.generation,
                generation: gang.generation,
                slots: BTreeMap::new(),
            });
        crew.slots.extend(&slots);
        Action::Recruit {
            crew: GangKey::new(&gang.job_id, crew.begun),
            order: Box::new(order),
            slots,
            anew,
        }
    }

    /// The coordinator takes a job's gangs back, up to a generation. A start of one that arrives later is
    /// ignored.
    pub(crate) fn revoke(&mut self, revoke: &Revoke) -> Action {
        let gang = GangKey::new(&revoke.job_id, revoke.generation);
        self.remember(&gang);
        #[cfg(feature = "mutants")]
        if espalier_mutants::is("revoke-ignored") {
            return Action::Ignore {
                gang,
                reason: "it is ignored".to_owned(),
            };
        }
        let ends = self
            .crews
            .get(&gang.job_id)
            .is_some_and(|crew| crew.generation <= gang.generation);
        match self.crews.remove(&gang.job_id) {
            Some(crew) if ends => Action::Stop {
                crew: GangKey::new(&gang.job_id, crew.begun),
                generation: gang.generation,
                reason: format!("revoked: {}", revoke.reason),
            },
            other => {
                if let Some(newer) = other {
                    self.crews.insert(gang.job_id.clone(), newer);
                }
                Action::Ignore {
                    gang,
                    reason: "it does not run here".to_owned(),
                }
            }
        }
    }

    /// An order for a crew that had ended before it could follow it.
    pub(crate) fn late(&mut self, order: StartGang) -> Action {
        let gang = GangKey::new(&order.job_id, order.generation);
        match seats(&order) {
            Some(seats) => self.regroup(gang, Box::new(order), seats),
            None => Action::Ignore {
                gang,
                reason: "its seats do not fit".to_owned(),
            },
        }
    }

    /// The crew of a job, by the gang that it began with.
    pub(crate) fn crew(&self, job_id: &str) -> Option<GangKey> {
        let crew = self.crews.get(job_id)?;
        Some(GangKey::new(job_id, crew.begun))
    }

    /// A process of a crew has ended.
    pub(crate) fn vacated(&mut self, crew: &GangKey, seat: u64) {
        let known = self.crews.get_mut(&crew.job_id);
        if let Some(known) = known.filter(|known| known.begun == crew.generation) {
            known.slots.remove(&seat);
        }
    }

    /// A crew's processes have all ended.
    pub(crate) fn ended(&mut self, crew: &GangKey) {
        let known = self.crews.get(&crew.job_id);
        if known.is_some_and(|known| known.begun == crew.generation) {
            self.crews.remove(&crew.job_id);
        }
    }

    fn supersede(&mut self, gang: &GangKey) -> Option<Action> {
        let old = self.crews.remove(&gang.job_id)?;
        Some(Action::Stop {
            crew: GangKey::new(&gang.job_id, old.begun),
            generation: old.generation,
            reason: format!("superseded by generation {}", gang.generation),
        })
    }

    /// The lowest free slots, one for each seat.
    fn free(&self, seats: &[u64]) -> Result<BTreeMap<u64, u32>, String> {
        let crews = self.crews.values();
        let used: BTreeSet<u32> = crews
            .flat_map(|crew| crew.slots.values().copied())
            .collect();
        let free: Vec<u32> = (0..self.slots)
            .filter(|slot| !used.contains(slot))
            .take(seats.len())
            .collect();
        if free.len() < seats.len() {
            return Err(format!(
                "{} ranks asked for, {} of {} slots are free",
                seats.len(),
                free.len(),
                self.slots
            ));
        }
        Ok(seats.iter().copied().zip(free).collect())
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

/// The rank of each seat of an order; `None` when they are none or not within the gang.
fn seats(order: &StartGang) -> Option<BTreeMap<u64, u32>> {
    let end = order.first_rank.checked_add(order.rank_count)?;
    let seats: BTreeMap<u64, u32> = order
        .seats
        .iter()
        .copied()
        .zip(order.first_rank..end)
        .collect();
    let fits = order.rank_count > 0 && end <= order.world_size;
    let whole = seats.len() == order.seats.len() && seats.len() == order.rank_count as usize;
    (fits && whole).then_some(seats)
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
