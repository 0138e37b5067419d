//! What holds of every decision, whatever waits and runs.

use std::collections::BTreeMap;

use espalier_job::Device;
use proptest::prelude::*;

use super::tests::{gang, job, now, view, worker};
use super::*;
use crate::queue::Queue;

prop_compose! {
    fn any_view()(
        jobs in proptest::collection::vec(
            (1u32..4, 0u32..3, 1u32..3, any::<bool>(), -1i32..3, 0u8..2), 0..8),
        gangs in proptest::collection::vec(
            (proptest::collection::btree_set(0usize..6, 1..4), 1u32..3, 0u32..3, -1i32..3, 0u8..2, any::<[bool; 4]>()), 0..6),
        slots in proptest::collection::vec((1u32..5, any::<bool>()), 6),
        quota in proptest::option::of(0u32..8),
        weight in 1u32..4,
    ) -> View {
        let kind = |cuda: bool| if cuda { Device::Cuda } else { Device::Cpu };
        let queue = |n: u8| ["default", "other"][usize::from(n)].to_owned();
        let mut workers: Vec<Candidate> = slots.iter().enumerate().map(|(i, (slots, cuda))| Candidate {
            device: kind(*cuda),
            ..worker(&format!("w{i}"), *slots, *slots)
        }).collect();
        let gangs = gangs.iter().enumerate().filter_map(|(i, (on, ranks, min, priority, of, flags))| {
            let device = workers[*on.first()?].device;
            let mut parts = Vec::new();
            for &index in on {
                let worker = &mut workers[index];
                if worker.device == device && worker.free >= *ranks {
                    worker.free -= ranks;
                    parts.push(Part { worker_id: worker.worker_id.clone(), slots: *ranks });
                }
            }
            (!parts.is_empty()).then(|| Running {
                queue: queue(*of),
                priority: *priority,
                device,
                min_workers: (*min).clamp(1, parts.len() as u32),
                parts,
                leaves: flags[0] && flags[1],
                shrinks: flags[1],
                spared: flags[2],
                guest_of: flags[3].then(|| JobId::new("j0")),
                ..gang(&format!("g{i}"), 1, &[])
            })
        }).collect();
        let waiting = jobs.iter().enumerate().map(|(i, (min, more, ranks, cuda, priority, of))| Waiting {
            queue: queue(*of),
            priority: *priority,
            submitted: i as u64,
            device: kind(*cuda),
            ..job(&format!("j{i}"), *min, min + more, *ranks)
        }).collect();
        let mut view = view(&[], &[], &workers);
        view.waiting = waiting;
        view.gangs = gangs;
        view.queues.insert("other".to_owned(), Queue { weight, cpu: quota, cuda: None });
        view
    }
}

proptest! {
    /// Whatever waits and runs: every job is decided on once, no gang is half placed, no slot given
    /// twice, no quota exceeded, and what is taken is enough for the one that it is taken for.
    #[test]
    fn decisions_are_sound(view in any_view()) {
        let decisions = now(&view);
        prop_assert_eq!(&decisions, &now(&view));
        let mut told: Vec<String> = decisions.iter().map(|decision| match decision {
            Decision::Place(place) => place.job_id.to_string(),
            Decision::Preempt { job_id, .. } | Decision::Wait { job_id, .. } => job_id.to_string(),
        }).collect();
        told.sort();
        let mut jobs: Vec<String> = view.waiting.iter().map(|j| j.job_id.to_string()).collect();
        jobs.sort();
        prop_assert_eq!(told, jobs);

        let mut free: BTreeMap<String, i64> =
            view.workers.iter().map(|w| (w.worker_id.clone(), i64::from(w.free))).collect();
        let mut own: BTreeMap<(String, bool), i64> = BTreeMap::new();
        for gang in &view.gangs {
            let slots: u32 = gang.parts.iter().map(|p| p.slots).sum();
            *own.entry((gang.queue.clone(), gang.device == Device::Cuda)).or_default() += i64::from(slots);
        }
        let mut hit: BTreeMap<JobId, usize> = BTreeMap::new();
        for decision in &decisions {
            let place = match decision {
                Decision::Wait { .. } => continue,
                Decision::Place(place) => Some(place),
                Decision::Preempt { job_id, takes, place, .. } => {
                    prop_assert!(!takes.is_empty());
                    let job = view.waiting.iter().find(|j| &j.job_id == job_id).unwrap();
                    let mut then = free.clone();
                    for gang in view.gangs.iter().filter(|g| g.leaves) {
                        for part in &gang.parts {
                            *then.get_mut(&part.worker_id).unwrap() += i64::from(part.slots);
                        }
                    }
                    for take in takes {
                        let (Take::Evict { job_id: victim, .. } | Take::Shrink { job_id: victim, .. }) = take;
                        let gang = view.gangs.iter().find(|g| &g.job_id == victim).unwrap();
                        prop_assert!(!gang.leaves, "was told before");
                        prop_assert_eq!(gang.device, job.device);
                        let guest = gang.guest_of.as_ref() == Some(job_id);
                        let lost: Vec<&Part> = match take {
                            Take::Evict { .. } => {
                                prop_assert!(place.is_none());
                                prop_assert!(guest || gang.queue != job.queue || gang.priority < job.priority);
                                prop_assert!(guest || !gang.spared);
                                gang.parts.iter().collect()
                            }
                            Take::Shrink { workers, .. } => {
                                prop_assert!(gang.shrinks);
                                prop_assert!(guest || gang.queue != job.queue || gang.priority <= job.priority);
                                prop_assert!(gang.parts.len() - workers.len() >= gang.min_workers as usize);
                                gang.parts.iter().filter(|p| workers.contains(&p.worker_id)).collect()
                            }
                        };
                        *hit.entry(victim.clone()).or_default() += 1;
                        for part in lost {
                            *then.get_mut(&part.worker_id).unwrap() += i64::from(part.slots);
                            if place.is_some() {
                                *free.get_mut(&part.worker_id).unwrap() += i64::from(part.slots);
                                let key = (gang.queue.clone(), gang.device == Device::Cuda);
                                *own.get_mut(&key).unwrap() -= i64::from(part.slots);
                            }
                        }
                    }
                    let able = view.workers.iter().filter(|w| {
                        w.device == job.device && then[&w.worker_id] >= i64::from(job.ranks_per_worker)
                    });
                    prop_assert!(able.count() >= job.min_workers as usize, "taken in vain");
                    place.as_ref()
                }
            };
            let Some(place) = place else { continue };
            let job = view.waiting.iter().find(|j| j.job_id == place.job_id).unwrap();
            prop_assert!(place.workers.len() >= job.min_workers as usize);
            prop_assert!(place.workers.len() <= job.max_workers as usize);
            for id in &place.workers {
                let worker = view.workers.iter().find(|w| &w.worker_id == id).unwrap();
                prop_assert_eq!(worker.device, job.device);
                let left = free.get_mut(id).unwrap();
                *left -= i64::from(job.ranks_per_worker);
                prop_assert!(*left >= 0, "a slot was given twice");
            }
            let key = (job.queue.clone(), job.device == Device::Cuda);
            let slots = place.workers.len() as i64 * i64::from(job.ranks_per_worker);
            let used = own.entry(key).or_default();
            *used += slots;
            let quota = view.queues.get(&job.queue).and_then(|q| q.quota(job.device));
            prop_assert!(quota.is_none_or(|quota| *used <= i64::from(quota)), "over the quota");
        }
        prop_assert!(hit.values().all(|times| *times == 1), "taken from twice: {:?}", hit);
    }

    /// Jobs come all the time and run for any time: each that fits the empty cluster is placed in the
    /// end, though small ones may pass it, and nobody who is its guest makes it wait.
    #[test]
    fn every_job_that_fits_is_placed_in_the_end(
        slots in proptest::collection::vec(1u32..4, 1..5),
        jobs in proptest::collection::vec((1u32..4, 1u32..4, 1u64..6), 1..20),
    ) {
        let mut workers: Vec<Candidate> =
            slots.iter().enumerate().map(|(i, slots)| worker(&format!("w{i}"), *slots, *slots)).collect();
        let fits = |min: u32, ranks: u32| slots.iter().filter(|s| **s >= ranks).count() >= min as usize;
        let mut view = view(&[], &[], &[]);
        let mut runs: BTreeMap<JobId, u64> = BTreeMap::new();
        let mut done = 0;
        let wanted = jobs.iter().filter(|(min, ranks, _)| fits(*min, *ranks)).count();
        for round in 0..400u64 {
            if let Some((min, ranks, time)) = jobs.get(round as usize)
                && fits(*min, *ranks)
            {
                let id = format!("j{round:03}");
                runs.insert(JobId::new(id.as_str()), *time);
                view.waiting.push(Waiting { submitted: round, ..job(&id, *min, *min, *ranks) });
            }
            view.workers.clone_from(&workers);
            for decision in now(&view) {
                match decision {
                    Decision::Place(place) => {
                        let at = view.waiting.iter().position(|j| j.job_id == place.job_id).unwrap();
                        let job = view.waiting.remove(at);
                        let parts = place.workers.iter().map(|id| (id.as_str(), job.ranks_per_worker));
                        let parts: Vec<_> = parts.collect();
                        for (id, ranks) in &parts {
                            workers.iter_mut().find(|w| w.worker_id == *id).unwrap().free -= ranks;
                        }
                        view.gangs.push(Running {
                            guest_of: place.guest_of.clone(),
                            ..gang(job.job_id.as_str(), job.min_workers, &parts)
                        });
                    }
                    Decision::Preempt { takes, .. } => {
                        // They leave at once, and come back to their places.
                        for take in takes {
                            let Take::Evict { job_id, .. } = take else {
                                panic!("nobody has more than its fewest")
                            };
                            let at = view.gangs.iter().position(|g| g.job_id == job_id).unwrap();
                            let gone = view.gangs.remove(at);
                            for part in &gone.parts {
                                workers.iter_mut().find(|w| w.worker_id == part.worker_id).unwrap().free += part.slots;
                            }
                            let submitted = job_id.as_str()[1..].parse().unwrap();
                            let (min, ranks, _) = jobs[submitted as usize];
                            view.waiting.push(Waiting { submitted, ..job(job_id.as_str(), min, min, ranks) });
                        }
                    }
                    Decision::Wait { .. } => {}
                }
            }
            // Those that run come nearer to their ends.
            view.gangs.retain(|gang| {
                let left = runs.get_mut(&gang.job_id).unwrap();
                *left -= 1;
                if *left == 0 {
                    done += 1;
                    for part in &gang.parts {
                        workers.iter_mut().find(|w| w.worker_id == part.worker_id).unwrap().free += part.slots;
                    }
                }
                *left > 0
            });
        }
        prop_assert_eq!(done, wanted, "{:?}", view.waiting);
    }
}
