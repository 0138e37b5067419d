use std::collections::BTreeMap;
use std::time::Duration;

use espalier_job::Device;

use super::*;
use crate::queue::Queue;

pub(super) fn job(id: &str, min: u32, max: u32, ranks: u32) -> Waiting {
    Waiting {
        job_id: JobId::new(id),
        queue: "default".to_owned(),
        priority: 0,
        recovers: false,
        submitted: 0,
        device: Device::Cpu,
        min_workers: min,
        max_workers: max,
        ranks_per_worker: ranks,
        not_before: Millis(0),
    }
}

pub(super) fn worker(id: &str, slots: u32, free: u32) -> Candidate {
    Candidate {
        worker_id: id.to_owned(),
        device: Device::Cpu,
        slots,
        free,
    }
}

/// A gang at work with so many slots on each of its workers.
pub(super) fn gang(id: &str, min: u32, parts: &[(&str, u32)]) -> Running {
    Running {
        job_id: JobId::new(id),
        queue: "default".to_owned(),
        priority: 0,
        device: Device::Cpu,
        min_workers: min,
        parts: parts
            .iter()
            .map(|(worker_id, slots)| Part {
                worker_id: (*worker_id).to_owned(),
                slots: *slots,
            })
            .collect(),
        recruits: Vec::new(),
        leaves: false,
        shrinks: true,
        evicts: true,
        spared: false,
        undurable: Duration::ZERO,
        guest_of: None,
    }
}

pub(super) fn view(waiting: &[Waiting], gangs: &[Running], workers: &[Candidate]) -> View {
    View {
        queues: BTreeMap::new(),
        waiting: waiting.to_vec(),
        gangs: gangs.to_vec(),
        workers: workers.to_vec(),
    }
}

/// Jobs that are placed with their workers, by job.
fn placed(decisions: &[Decision]) -> BTreeMap<String, Vec<String>> {
    let places = decisions.iter().filter_map(|decision| match decision {
        Decision::Place(place) => Some(place),
        Decision::Preempt { place, .. } => place.as_ref(),
        Decision::Wait { .. } => None,
    });
    let pairs = places.map(|place| (place.job_id.to_string(), place.workers.clone()));
    pairs.collect()
}

/// What each waiting job is told.
fn waits(decisions: &[Decision]) -> BTreeMap<String, String> {
    let waits = decisions.iter().filter_map(|decision| match decision {
        Decision::Wait { job_id, reason } => Some((job_id.to_string(), reason.clone())),
        _ => None,
    });
    waits.collect()
}

/// What is taken from whom: a job with the workers that it loses, none if it is evicted.
fn taken(decisions: &[Decision]) -> Vec<(String, Vec<String>)> {
    let takes = decisions.iter().filter_map(|decision| match decision {
        Decision::Preempt { takes, .. } => Some(takes.clone()),
        _ => None,
    });
    let told = takes.flatten().map(|take| match take {
        Take::Shrink {
            job_id, workers, ..
        } => (job_id.to_string(), workers),
        Take::Evict { job_id, .. } => (job_id.to_string(), Vec::new()),
    });
    told.collect()
}

pub(super) fn of(pairs: &[(&str, &[&str])]) -> Vec<(String, Vec<String>)> {
    let owned = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect();
    let pairs = pairs.iter();
    pairs
        .map(|(id, ids)| ((*id).to_owned(), owned(ids)))
        .collect()
}

pub(super) fn now(view: &View) -> Vec<Decision> {
    decide(Millis(0), view)
}

#[test]
fn takes_as_many_workers_as_the_job_allows_and_leaves_large_gaps_whole() {
    let workers = [worker("a", 4, 4), worker("b", 2, 1), worker("c", 2, 2)];
    let decisions = now(&view(&[job("j1", 1, 2, 1)], &[], &workers));
    assert_eq!(placed(&decisions)["j1"], ["b", "c"]);
    let Decision::Place(place) = &decisions[0] else {
        panic!("{decisions:?}");
    };
    assert_eq!(
        place.reason,
        "placed on 2 of 3 able workers (asked for 1 to 2), 1 rank each"
    );
}

#[test]
fn says_what_is_missing() {
    let told = |job: Waiting, workers: &[Candidate]| {
        let decisions = now(&view(&[job], &[], workers));
        waits(&decisions)["j1"].clone()
    };
    assert_eq!(
        told(job("j1", 2, 2, 1), &[]),
        "waits for 2 cpu workers with 1 slot free; no cpu worker is open"
    );
    assert_eq!(
        told(job("j1", 1, 1, 4), &[worker("a", 4, 3)]),
        "waits for 1 cpu worker with 4 slots free; 0 of 1 open can take it now"
    );
    assert_eq!(
        told(job("j1", 2, 2, 4), &[worker("a", 4, 4), worker("b", 2, 2)]),
        "waits for 2 cpu workers with 4 slots free; of 2 open only 1 has that many slots at all"
    );
}

#[test]
fn the_higher_priority_goes_first_then_who_recovers_then_who_came_first() {
    let of = |id: &str, priority, recovers, submitted| Waiting {
        priority,
        recovers,
        submitted,
        ..job(id, 1, 1, 1)
    };
    let waiting = [
        of("late", 0, false, 9),
        of("early", 0, false, 1),
        of("back", 0, true, 5),
        of("high", 3, false, 10),
    ];
    let order = ["high", "back", "early", "late"];
    for slots in 1..=4 {
        let decisions = now(&view(&waiting, &[], &[worker("a", 4, slots)]));
        let mut expected = order[..slots as usize].to_vec();
        expected.sort_unstable();
        assert_eq!(placed(&decisions).into_keys().collect::<Vec<_>>(), expected);
    }
}

#[test]
fn queues_share_by_their_weights_and_borrow_what_is_idle() {
    let of = |queue: &'static str, count: u64| {
        (0..count).map(move |n| Waiting {
            queue: queue.to_owned(),
            submitted: n,
            ..job(&format!("{queue}{n}"), 1, 1, 1)
        })
    };
    let count = |decisions: &[Decision], queue: &str| {
        let jobs = placed(decisions).into_keys();
        jobs.filter(|id| id.starts_with(queue)).count()
    };
    let mut view = view(&[], &[], &[worker("w", 12, 12)]);
    view.queues.insert(
        "a".to_owned(),
        Queue {
            weight: 3,
            ..Queue::default()
        },
    );
    view.waiting = of("a", 20).chain(of("b", 20)).collect();
    let decisions = now(&view);
    assert_eq!((count(&decisions, "a"), count(&decisions, "b")), (9, 3));
    // What the other does not ask for is free for all.
    view.waiting = of("a", 2).chain(of("b", 20)).collect();
    let decisions = now(&view);
    assert_eq!((count(&decisions, "a"), count(&decisions, "b")), (2, 10));
}

#[test]
fn a_quota_holds_and_those_behind_are_told() {
    let queue = |job: Waiting| Waiting {
        queue: "q".to_owned(),
        ..job
    };
    let mut view = view(
        &[
            queue(job("j1", 2, 9, 1)),
            queue(job("j2", 2, 2, 1)),
            queue(job("j3", 1, 1, 1)),
            queue(job("j4", 4, 4, 1)),
            job("j5", 1, 1, 1),
        ],
        &[],
        &(0..9)
            .map(|n| worker(&format!("w{n}"), 1, 1))
            .collect::<Vec<_>>(),
    );
    let quota = Queue {
        cpu: Some(3),
        ..Queue::default()
    };
    view.queues.insert("q".to_owned(), quota);
    let decisions = now(&view);
    assert_eq!(placed(&decisions)["j1"].len(), 3);
    assert!(placed(&decisions).contains_key("j5"));
    let told = waits(&decisions);
    assert_eq!(
        told["j2"],
        "queue q is at its quota of 3 cpu slots: 3 are in use, the job needs 2"
    );
    assert_eq!(
        told["j3"],
        "waits behind another job of queue q, which is at its quota"
    );
    assert_eq!(
        told["j4"],
        "needs 4 cpu slots at least, more than the quota of its queue q, 3"
    );
}

#[test]
fn who_passes_the_head_is_its_guest_and_goes_when_that_lets_it_start() {
    let workers = [worker("a", 1, 0), worker("b", 1, 1), worker("c", 1, 0)];
    let busy = [gang("j1", 1, &[("a", 1)]), gang("j2", 1, &[("c", 1)])];
    let waiting = [job("j3", 2, 2, 1), job("j4", 1, 1, 1)];
    let decisions = now(&view(&waiting, &busy, &workers));
    let Decision::Place(place) = &decisions[1] else {
        panic!("{decisions:?}");
    };
    assert_eq!(
        (place.job_id.as_str(), place.guest_of.as_ref()),
        ("j4", Some(&JobId::new("j3")))
    );

    // While it would not help the head, the guest stays.
    let guest = Running {
        guest_of: Some(JobId::new("j3")),
        ..gang("j4", 1, &[("b", 1)])
    };
    let gangs = [busy[0].clone(), busy[1].clone(), guest.clone()];
    let full = [worker("a", 1, 0), worker("b", 1, 0), worker("c", 1, 0)];
    assert_eq!(taken(&now(&view(&waiting[..1], &gangs, &full))), of(&[]));
    let gangs = [busy[0].clone(), guest.clone()];
    let free = [worker("a", 1, 0), worker("b", 1, 0), worker("c", 1, 1)];
    let decisions = now(&view(&waiting[..1], &gangs, &free));
    assert_eq!(taken(&decisions), of(&[("j4", &[])]));
    assert!(matches!(
        &decisions[0],
        Decision::Preempt { place: None, .. }
    ));

    // Nobody takes the free slot while the guest leaves.
    let leaves = Running {
        leaves: true,
        ..guest
    };
    let late = [waiting[0].clone(), job("j5", 1, 1, 1)];
    let decisions = now(&view(&late, &[busy[0].clone(), leaves], &free));
    assert_eq!(taken(&decisions), of(&[]));
    let told = waits(&decisions);
    assert_eq!(told["j3"], "waits for job j4 to leave");
    assert_eq!(told["j5"], "waits behind job j3");
}

#[test]
fn who_takes_what_the_head_cannot_use_is_no_guest() {
    let workers = [worker("a", 2, 0), worker("b", 1, 1)];
    let busy = [gang("j1", 1, &[("a", 2)])];
    let waiting = [job("j2", 1, 1, 2), job("j3", 1, 1, 1)];
    let decisions = now(&view(&waiting, &busy, &workers));
    let Decision::Place(place) = &decisions[1] else {
        panic!("{decisions:?}");
    };
    assert_eq!(place.guest_of, None);
}

#[test]
fn a_job_that_fits_nowhere_holds_nobody_back_and_one_that_pauses_does() {
    let workers = [worker("a", 1, 1)];
    let large = job("j1", 2, 2, 1);
    let small = job("j2", 1, 1, 1);
    let decisions = now(&view(&[large, small.clone()], &[], &workers));
    assert_eq!(placed(&decisions)["j2"], ["a"]);
    let pauses = Waiting {
        not_before: Millis(10),
        ..job("j1", 1, 1, 1)
    };
    let view = view(&[pauses, small], &[], &workers);
    assert!(placed(&decide(Millis(9), &view)).is_empty());
    assert_eq!(placed(&decide(Millis(10), &view))["j1"], ["a"]);
}

#[test]
fn what_is_above_a_gangs_fewest_workers_is_given_up_first_and_at_once() {
    let full = [worker("a", 1, 0), worker("b", 1, 0), worker("c", 1, 0)];
    let elastic = gang("j1", 1, &[("a", 1), ("b", 1)]);
    let rigid = gang("j2", 1, &[("c", 1)]);
    let high = Waiting {
        priority: 1,
        ..job("j3", 1, 1, 1)
    };
    let decisions = now(&view(
        std::slice::from_ref(&high),
        &[elastic.clone(), rigid.clone()],
        &full,
    ));
    assert_eq!(taken(&decisions), of(&[("j1", &["b"])]));
    assert_eq!(placed(&decisions)["j3"], ["b"]);
    // One of the same priority may take that too, but evicts nobody.
    let same = job("j3", 1, 1, 1);
    let gangs = [elastic.clone(), rigid.clone()];
    let decisions = now(&view(std::slice::from_ref(&same), &gangs, &full));
    assert_eq!(taken(&decisions), of(&[("j1", &["b"])]));
    let least = Running {
        min_workers: 2,
        ..elastic.clone()
    };
    let gangs = [least.clone(), rigid.clone()];
    assert_eq!(taken(&now(&view(&[same], &gangs, &full))), of(&[]));
    let decisions = now(&view(std::slice::from_ref(&high), &gangs, &full));
    assert_eq!(taken(&decisions), of(&[("j2", &[])]));
    // A lower one takes nothing.
    let low = Waiting {
        priority: -1,
        ..job("j3", 1, 1, 1)
    };
    assert_eq!(
        taken(&now(&view(&[low], &[elastic, rigid], &full))),
        of(&[])
    );
}

#[test]
fn the_lowest_priority_goes_first_and_of_those_who_loses_least() {
    let full = [worker("a", 1, 0), worker("b", 1, 0), worker("c", 1, 0)];
    let with = |id: &str, worker: &str, priority, undurable| Running {
        priority,
        undurable: Duration::from_secs(undurable),
        ..gang(id, 1, &[(worker, 1)])
    };
    let gangs = [
        with("j1", "a", 1, 0),
        with("j2", "b", 0, 90),
        with("j3", "c", 0, 20),
    ];
    let high = |min| Waiting {
        priority: 2,
        ..job("j4", min, min, 1)
    };
    let found = |min| {
        let mut taken = taken(&now(&view(&[high(min)], &gangs, &full)));
        taken.sort();
        taken
    };
    assert_eq!(found(1), of(&[("j3", &[])]));
    assert_eq!(found(2), of(&[("j2", &[]), ("j3", &[])]));
    assert_eq!(found(3).len(), 3);
    // Nothing is taken if the gang could not be placed all the same.
    assert_eq!(found(4), of(&[]));
    // One that was evicted lately is left alone.
    let spared = Running {
        spared: true,
        ..gangs[2].clone()
    };
    let gangs = [gangs[0].clone(), gangs[1].clone(), spared];
    let decisions = now(&view(&[high(1)], &gangs, &full));
    assert_eq!(taken(&decisions), of(&[("j2", &[])]));
}

#[test]
fn a_queue_below_its_share_takes_from_one_above_and_no_more_than_that() {
    let workers: Vec<Candidate> = (0..4).map(|n| worker(&format!("w{n}"), 1, 0)).collect();
    let gangs: Vec<Running> = (0..4)
        .map(|n| Running {
            queue: "a".to_owned(),
            priority: 50,
            ..gang(&format!("a{n}"), 1, &[(format!("w{n}").as_str(), 1)])
        })
        .collect();
    let of_b = |min| Waiting {
        queue: "b".to_owned(),
        ..job("b0", min, min, 1)
    };
    let count = |min| taken(&now(&view(&[of_b(min)], &gangs, &workers))).len();
    assert_eq!((count(1), count(2), count(3)), (1, 2, 0));
}

#[test]
fn a_full_quota_is_made_room_in_by_lower_priorities_of_the_queue() {
    let workers = [worker("a", 1, 0), worker("b", 1, 1)];
    let high = Waiting {
        priority: 1,
        ..job("j2", 1, 1, 1)
    };
    let mut view = view(&[high], &[gang("j1", 1, &[("a", 1)])], &workers);
    let quota = Queue {
        cpu: Some(1),
        ..Queue::default()
    };
    view.queues.insert("default".to_owned(), quota);
    assert_eq!(taken(&now(&view)), of(&[("j1", &[])]));
}
