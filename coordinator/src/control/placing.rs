//! Carries out what the scheduler decides: gangs that start, together where they can, what is taken from
//! others for them, and what is told to those that wait.

use std::collections::BTreeMap;

use espalier_store::{Limits, Outcome, Txn};
use tracing::info;

use super::reconcile::settled;
use super::recover::note;
use super::{Control, Tracked};
use crate::clock::{Millis, wall};
use crate::error::Error;
use crate::job::{Edit, JobId, Member, Placed, Snapshot, State, Then};
use crate::membership::{self, Regroup};
use crate::scheduler::{self, Decision, Place, Take, View};

/// Operations of a gang that is placed: record, gang, two events and the feed's head; and of conditions.
const OPS: usize = 6;

/// Operations, and conditions, of a job that is told what it waits for.
const WAIT_OPS: usize = 2;

impl Control {
    /// Decides over the jobs that wait.
    pub(super) async fn schedule(&mut self, now: Millis) -> Result<(), Error> {
        let waiting = self.jobs.values().filter_map(Tracked::waiting).collect();
        let gangs = self.jobs.values();
        let view = View {
            queues: self.queues.clone(),
            waiting,
            gangs: gangs.filter_map(|tracked| tracked.running(now)).collect(),
            workers: self.candidates(now),
        };
        let (mut places, mut waits) = (Vec::new(), Vec::new());
        let mut preemptions = Vec::new();
        for decision in scheduler::decide(now, &view) {
            match decision {
                Decision::Place(place) => places.push(place),
                Decision::Wait { job_id, reason } => waits.push((job_id, reason)),
                Decision::Preempt {
                    job_id,
                    takes,
                    place,
                    reason,
                } => {
                    let mut takes = takes;
                    if place.is_none() {
                        waits.push((job_id, reason));
                        takes.retain(|take| matches!(take, Take::Evict { .. }));
                    }
                    preemptions.push((takes, place));
                }
            }
        }
        self.place_all(&places).await?;
        for (takes, place) in preemptions {
            self.keep_leading().await?;
            settled(self.preempt(now, takes, place).await)?;
        }
        self.wait(waits).await
    }

    /// Starts gangs, as many in a transaction as fit.
    async fn place_all(&mut self, places: &[Place]) -> Result<(), Error> {
        let limits = self.store().limits();
        let mut rest = places;
        while !rest.is_empty() {
            let (batch, later) = rest.split_at(fitting(rest, limits, OPS, |place| {
                let job = self.jobs.get(&place.job_id);
                let text = job.map_or(0, |t| t.job.record.spec_toml.len());
                // A member and its events take the rest.
                as_json(text) + 512 * place.workers.len()
            }));
            self.keep_leading().await?;
            let edits: Vec<Edit> = batch.iter().filter_map(|p| self.placement(p)).collect();
            if edits.len() == batch.len() && self.commit_all(edits).await? {
                for place in batch {
                    self.placed(place).await?;
                }
            } else {
                for place in batch {
                    settled(self.place(place).await)?;
                }
            }
            rest = later;
        }
        Ok(())
    }

    /// Starts one gang, deciding anew from what is stored.
    async fn place(&mut self, place: &Place) -> Result<(), Error> {
        let processes = self.processes(place);
        let id = &place.job_id;
        self.edit(id, |edit| begin(edit, place, &processes)).await?;
        self.placed(place).await
    }

    /// The change that starts a gang, from its job as last read.
    fn placement(&self, place: &Place) -> Option<Edit> {
        let tracked = self.jobs.get(&place.job_id)?;
        let mut edit = Edit::of(tracked.job.clone(), wall());
        begin(&mut edit, place, &self.processes(place)).ok()?;
        Some(edit)
    }

    /// The workers of a gang with their present processes.
    fn processes(&self, place: &Place) -> Vec<(String, String)> {
        let workers = place.workers.iter();
        let known = workers.filter_map(|worker| self.workers.get(worker));
        let names = known.map(|worker| {
            let record = &worker.record;
            (record.worker_id.clone(), record.incarnation.clone())
        });
        names.collect()
    }

    async fn placed(&mut self, place: &Place) -> Result<(), Error> {
        let (id, reason) = (&place.job_id, &place.reason);
        self.refresh(id).await?;
        if let Some(tracked) = self.jobs.get(id) {
            info!(job = %id, generation = tracked.job.generation(), reason, "gang placed");
            self.start(&tracked.job);
        }
        Ok(())
    }

    /// Takes from gangs, and starts the one that it is for if nobody has to leave first: all in one
    /// transaction, or nothing.
    async fn preempt(
        &mut self,
        now: Millis,
        takes: Vec<Take>,
        place: Option<Place>,
    ) -> Result<(), Error> {
        let mut edits = Vec::new();
        let mut shrunk: BTreeMap<JobId, (Placed, Regroup)> = BTreeMap::new();
        let mut evicted = Vec::new();
        for take in takes {
            let (Take::Shrink { job_id, .. } | Take::Evict { job_id, .. }) = &take;
            let Some(tracked) = self.jobs.get(job_id) else {
                return Ok(());
            };
            let mut edit = Edit::of(tracked.job.clone(), wall());
            match take {
                Take::Evict { job_id, reason } => {
                    edit.leave(Then::Queued, &format!("evicted: {reason}"));
                    evicted.push(job_id);
                }
                Take::Shrink {
                    job_id,
                    workers,
                    reason,
                } => {
                    let view = self.gang_view(now, tracked);
                    let regroup = view.and_then(|v| membership::shrink(&v, &workers, &reason));
                    let (Some(regroup), Some(before)) = (regroup, tracked.job.placed()) else {
                        return Ok(());
                    };
                    let recruits = &mut edit.record.recruits;
                    recruits.retain(|recruit| !workers.contains(&recruit.worker_id));
                    note(&mut edit, &regroup)?;
                    edit.regroup(regroup.gang.clone(), &regroup.reason);
                    shrunk.insert(job_id, (before, regroup));
                }
            }
            edits.push(edit);
        }
        if let Some(place) = &place {
            let Some(edit) = self.placement(place) else {
                return Ok(());
            };
            edits.push(edit);
        }
        if !self.commit_all(edits).await? {
            // Somebody has written one of the jobs: the next round decides anew.
            return Ok(());
        }
        for (id, (before, regroup)) in shrunk {
            self.refresh(&id).await?;
            self.lead(&id, &before, &regroup);
        }
        for id in evicted {
            self.refresh(&id).await?;
            info!(job = %id, "gang is asked to leave");
            self.tell_halt(&id);
        }
        match place {
            Some(place) => self.placed(&place).await,
            None => Ok(()),
        }
    }

    /// Changes to several jobs in one transaction; false when another has written one of them.
    async fn commit_all(&mut self, edits: Vec<Edit>) -> Result<bool, Error> {
        let outcome = self.leader.commit(self.together(edits).await?).await?;
        Ok(matches!(outcome, Outcome::Committed(_)))
    }

    async fn together(&self, edits: Vec<Edit>) -> Result<Txn, Error> {
        let mut txn = Txn::new();
        for edit in edits {
            let job = edit.into_txn(self.store()).await?;
            txn.compares.extend(job.compares);
            txn.ops.extend(job.ops);
        }
        Ok(txn)
    }

    /// Shows what jobs wait for. While one recovers, the loss stays in sight.
    async fn wait(&mut self, waits: Vec<(JobId, String)>) -> Result<(), Error> {
        let news: Vec<(Snapshot, String)> = waits
            .into_iter()
            .filter_map(|(id, reason)| {
                let job = &self.jobs.get(&id)?.job;
                let record = &job.record;
                let news = record.state == State::Queued && record.reason != reason;
                news.then(|| (job.clone(), reason))
            })
            .collect();
        let limits = self.store().limits();
        let mut rest = news.as_slice();
        while !rest.is_empty() {
            let (batch, later) = rest.split_at(fitting(rest, limits, WAIT_OPS, |(job, _)| {
                as_json(job.record.spec_toml.len())
            }));
            self.keep_leading().await?;
            if !self.wait_all(batch).await? {
                for (job, reason) in batch {
                    settled(self.wait_one(&job.record.job_id, reason).await)?;
                }
            }
            rest = later;
        }
        Ok(())
    }

    /// In one transaction; false when another has written one of the jobs.
    async fn wait_all(&mut self, batch: &[(Snapshot, String)]) -> Result<bool, Error> {
        let mut edits = Vec::with_capacity(batch.len());
        let mut records = Vec::with_capacity(batch.len());
        for (job, reason) in batch {
            let mut edit = Edit::of(job.clone(), wall());
            reason.clone_into(&mut edit.record.reason);
            records.push(edit.record.clone());
            edits.push(edit);
        }
        let txn = self.together(edits).await?;
        let Outcome::Committed(revision) = self.leader.commit(txn).await? else {
            return Ok(false);
        };
        for record in records {
            self.track(Snapshot {
                record,
                revision,
                gang: None,
            });
        }
        Ok(true)
    }

    async fn wait_one(&mut self, id: &JobId, reason: &str) -> Result<(), Error> {
        self.edit(id, |edit| {
            if edit.record.state == State::Queued {
                reason.clone_into(&mut edit.record.reason);
            }
            Ok(())
        })
        .await
    }
}

/// How many of the first fit into a transaction, at `ops` operations each; at least one.
fn fitting<T>(rest: &[T], limits: Limits, ops: usize, bytes: impl Fn(&T) -> usize) -> usize {
    let mut sum = 0;
    let fits = |item: &&T| {
        sum += bytes(item);
        sum < limits.bytes / 2
    };
    let most = (limits.ops / ops).max(1);
    rest.iter().take(most).take_while(fits).count().max(1)
}

/// Bytes of a text as JSON: it may be twice as long.
fn as_json(text: usize) -> usize {
    2 * text
}

/// Gives a job the gang that was chosen for it.
fn begin(edit: &mut Edit, place: &Place, processes: &[(String, String)]) -> Result<(), Error> {
    let rank_count = edit.record.demand.ranks_per_worker;
    let members = processes.iter().zip(0u32..);
    let members = members
        .map(|((worker_id, incarnation), index)| Member {
            worker_id: worker_id.clone(),
            incarnation: incarnation.clone(),
            first_rank: index * rank_count,
            seats: (0..rank_count).map(|_| edit.seat()).collect(),
        })
        .collect();
    edit.record.guest_of.clone_from(&place.guest_of);
    Ok(edit.place(members, &place.reason)?)
}
