//! Which processes are started so that a gang that has lost some, or could be larger, grows: a pure
//! function. Recruits prepare while the gang steps on, or its survivors wait, and join it in a later
//! generation.

use std::collections::BTreeMap;

use crate::clock::Millis;
use crate::job::{Formation, Recruit, State};
use crate::membership::GangView;
use crate::scheduler::Candidate;

/// What a job with a gang could have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish {
    /// Most workers that it takes.
    pub max_workers: u32,
    /// Ranks on each worker.
    pub ranks_per_worker: u32,
    /// Nothing is started before (pause after a recruit that failed).
    pub not_before: Millis,
    /// Other jobs wait for workers of its kind: it takes no more than it needs.
    pub crowded: bool,
}

/// How many processes to start on which workers, none where the list is empty. `fit` are the recruits
/// whose workers are there, `free` the workers of the job's device kind with slots.
pub fn decide(
    now: Millis,
    job: &GangView,
    wish: &Wish,
    fit: &[Recruit],
    free: &[Candidate],
) -> Vec<(String, u32)> {
    let mut have: BTreeMap<&str, u32> = BTreeMap::new();
    let stays = |id: &String| !job.let_go.contains_key(id);
    for member in job.gang.members.iter().filter(|m| stays(&m.worker_id)) {
        *have.entry(&member.worker_id).or_default() += member.seats.len() as u32;
    }
    for recruit in fit {
        *have.entry(&recruit.worker_id).or_default() += 1;
    }
    let steps = job.state == State::Running && !job.ends();
    // Those that go are replaced whoever waits: the job has its workers already.
    let moves = steps && (have.len() as u32) < job.min_workers;
    let needs = job.gang.formation == Formation::Held || moves;
    let grows = steps && !wish.crowded;
    if now < wish.not_before || job.leaves.is_some() || !(needs || grows) {
        return Vec::new();
    }
    let most = if moves && wish.crowded {
        job.min_workers
    } else {
        wish.max_workers
    };
    let mut room = most.saturating_sub(have.len() as u32);
    let mut workers: Vec<&Candidate> = free.iter().filter(|w| stays(&w.worker_id)).collect();
    // Those that have ranks of the job first: the others count as further workers.
    workers.sort_by_key(|worker| {
        let known = have.contains_key(worker.worker_id.as_str());
        (!known, std::cmp::Reverse(worker.free), &worker.worker_id)
    });
    let mut starts = Vec::new();
    for worker in workers {
        let id = worker.worker_id.as_str();
        let count = match have.get(id) {
            Some(has) => wish.ranks_per_worker.saturating_sub(*has).min(worker.free),
            None if room > 0 && worker.free >= wish.ranks_per_worker => {
                room -= 1;
                wish.ranks_per_worker
            }
            None => 0,
        };
        if count > 0 {
            starts.push((id.to_owned(), count));
        }
    }
    starts
}

#[cfg(test)]
mod tests {
    use espalier_job::Device;

    use super::*;
    use crate::job::{Gang, JobId, Member, Seat};

    const WISH: Wish = Wish {
        max_workers: 3,
        ranks_per_worker: 2,
        not_before: Millis(0),
        crowded: false,
    };

    fn job(formation: Formation, state: State) -> GangView {
        let member = Member {
            worker_id: "a".to_owned(),
            incarnation: "a-1".to_owned(),
            first_rank: 0,
            seats: vec![Seat { id: 1, holds: true }],
        };
        GangView {
            gang: Gang {
                members: vec![member],
                formation,
                since: 0,
                reason: String::new(),
            },
            ..GangView::empty(JobId::numbered(1), state)
        }
    }

    fn worker(id: &str, free: u32) -> Candidate {
        Candidate {
            worker_id: id.to_owned(),
            device: Device::Cpu,
            slots: 4,
            free,
        }
    }

    fn starts(
        job: &GangView,
        wish: &Wish,
        fit: &[Recruit],
        free: &[Candidate],
    ) -> Vec<(String, u32)> {
        decide(Millis(5), job, wish, fit, free)
    }

    #[test]
    fn fills_its_workers_first_then_takes_others_up_to_the_most() {
        let free = [
            worker("d", 4),
            worker("a", 1),
            worker("b", 2),
            worker("c", 1),
        ];
        let running = job(Formation::Fresh, State::Running);
        let of = |pairs: &[(&str, u32)]| -> Vec<(String, u32)> {
            pairs.iter().map(|(id, n)| ((*id).to_owned(), *n)).collect()
        };
        assert_eq!(
            starts(&running, &WISH, &[], &free),
            of(&[("a", 1), ("d", 2), ("b", 2)])
        );
        let recruit = |seat| Recruit {
            seat,
            worker_id: "d".to_owned(),
            incarnation: "d-1".to_owned(),
            ready: false,
        };
        let fit = [recruit(8), recruit(9)];
        assert_eq!(
            starts(&running, &WISH, &fit, &free),
            of(&[("a", 1), ("b", 2)])
        );
    }

    #[test]
    fn takes_nothing_while_others_wait_or_it_is_not_settled_unless_it_must() {
        let free = [worker("b", 2)];
        let crowded = Wish {
            crowded: true,
            ..WISH
        };
        let running = job(Formation::Survivors, State::Running);
        assert!(starts(&running, &crowded, &[], &free).is_empty());
        let recovering = job(Formation::Survivors, State::Recovering);
        assert!(starts(&recovering, &WISH, &[], &free).is_empty());
        let held = job(Formation::Held, State::Recovering);
        assert_eq!(starts(&held, &crowded, &[], &free).len(), 1);
        let paused = Wish {
            not_before: Millis(6),
            ..WISH
        };
        assert!(starts(&held, &paused, &[], &free).is_empty());
    }

    #[test]
    fn those_that_go_are_replaced_whoever_waits_and_nobody_joins_who_leaves() {
        let free = [worker("a", 2), worker("b", 2), worker("c", 2)];
        let crowded = Wish {
            crowded: true,
            ..WISH
        };
        let mut moves = job(Formation::Fresh, State::Running);
        assert!(starts(&moves, &crowded, &[], &free).is_empty());
        moves.let_go.insert("a".to_owned(), "drained".to_owned());
        let found = starts(&moves, &crowded, &[], &free);
        assert_eq!(found, [("b".to_owned(), 2)]);
        moves.leaves = Some(std::time::Duration::ZERO);
        assert!(starts(&moves, &crowded, &[], &free).is_empty());
    }
}
