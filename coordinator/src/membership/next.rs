//! Who is in the next generation.

use std::collections::{BTreeMap, BTreeSet};

use super::{Decision, GangView, Regroup};
use crate::job::{Formation, Gang, Member, RankPhase, Recruit, Seat};

/// The processes of the next generation.
pub(super) struct Next {
    members: Vec<Member>,
    /// Of its ranks, those that are new.
    pub(super) recruits: u32,
}

impl Next {
    /// The survivors, in their order, then the recruits that are ready: the first rank is a survivor's.
    pub(super) fn of(
        job: &GangView,
        lost: &BTreeMap<u32, String>,
        fit: impl Fn(&Recruit) -> bool,
    ) -> Self {
        let mut members: Vec<Member> = Vec::new();
        let mut add = |worker_id: &str, incarnation: &str, seat: Seat| {
            let known = members
                .iter_mut()
                .find(|m| m.worker_id == worker_id && m.incarnation == incarnation);
            match known {
                Some(member) => member.seats.push(seat),
                None => members.push(Member {
                    worker_id: worker_id.to_owned(),
                    incarnation: incarnation.to_owned(),
                    first_rank: 0,
                    seats: vec![seat],
                }),
            }
        };
        for (rank, member, seat) in job.gang.ranks() {
            let phase = job.ranks.get(&rank);
            if !lost.contains_key(&rank) && phase != Some(&RankPhase::Done) {
                let holds = seat.holds
                    || matches!(
                        phase,
                        Some(
                            RankPhase::Running
                                | RankPhase::Halted
                                | RankPhase::Waiting { holds: true, .. }
                        )
                    );
                add(
                    &member.worker_id,
                    &member.incarnation,
                    Seat { holds, ..seat },
                );
            }
        }
        let mut recruits = 0;
        for recruit in job.recruits.iter().filter(|r| r.ready && fit(r)) {
            let seat = Seat {
                id: recruit.seat,
                holds: false,
            };
            add(&recruit.worker_id, &recruit.incarnation, seat);
            recruits += 1;
        }
        let mut first_rank = 0;
        for member in &mut members {
            member.first_rank = first_rank;
            first_rank += member.seats.len() as u32;
        }
        Self { members, recruits }
    }

    /// Somebody has a state of the job in memory.
    pub(super) fn holds(&self) -> bool {
        self.members.iter().flat_map(|m| &m.seats).any(|s| s.holds)
    }

    /// Number of ranks.
    pub(super) fn world_size(&self) -> u32 {
        self.members.iter().map(|m| m.seats.len() as u32).sum()
    }

    /// Number of workers.
    pub(super) fn workers(&self) -> u32 {
        let ids: BTreeSet<&str> = self.members.iter().map(|m| m.worker_id.as_str()).collect();
        ids.len() as u32
    }

    /// As a generation.
    pub(super) fn generation(self, formation: Formation, cause: String, reason: String) -> Regroup {
        Regroup {
            gang: Gang {
                members: self.members,
                formation,
                since: 0,
                reason: reason.clone(),
            },
            cause,
            recruits: self.recruits,
            reason,
        }
    }

    /// As a decision.
    pub(super) fn regroup(self, formation: Formation, cause: String, reason: String) -> Decision {
        Decision::Regroup(self.generation(formation, cause, reason))
    }
}
