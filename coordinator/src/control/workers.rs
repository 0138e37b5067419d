//! Workers that come, go and are told things.

use std::collections::BTreeMap;

use espalier_proto::v1::session_response::Message;
use espalier_proto::v1::{Registered, Rendezvous, StartGang, Worker as WireWorker};
use espalier_store::{Entry, Op, Txn};
use tracing::info;

use super::Control;
use super::handle::Registration;
use super::jobs::revoke;
use super::tracked::{Tracked, Worker};
use super::withdraw::halt;
use crate::clock::{Millis, timestamp, wall};
use crate::codec::{decode, encode};
use crate::error::Error;
use crate::job::{Gang, JobId, Member, Snapshot, State};
use crate::keys;
use crate::scheduler::Candidate;
use crate::standing::Standing;
use crate::worker::{WorkerRecord, device_wire};

/// Most workers that are kept in mind.
const MAX_WORKERS: usize = 10_000;

/// Time after which a worker that is gone and runs nothing is forgotten.
const FORGET_AFTER: std::time::Duration = std::time::Duration::from_secs(3600);

impl Control {
    /// A worker as it was stored by an earlier process.
    pub(super) fn remember(&mut self, entry: &Entry) -> Result<(), Error> {
        let record: WorkerRecord = decode(entry)?;
        let worker = Worker {
            record,
            registered: false,
            session: 0,
            link: None,
            heard_before: self.now(),
            detached: self.now(),
            standing: Standing::default(),
        };
        self.workers.insert(worker.record.worker_id.clone(), worker);
        Ok(())
    }

    /// Opens a session, and tells the worker all that it missed; answers the session's number.
    pub(super) async fn register(&mut self, registration: Registration) -> Result<u64, Error> {
        let Registration {
            record,
            running,
            link,
        } = registration;
        let id = record.worker_id.clone();
        if !self.workers.contains_key(&id) && self.workers.len() >= MAX_WORKERS {
            return Err(Error::TooManyWorkers(MAX_WORKERS));
        }
        let put = Txn::new().then(Op::put(keys::worker(&id), encode(&record)));
        self.leader.commit(put).await?;
        self.sessions += 1;
        let ttl = self.limits.lease_ttl;
        link.send(Message::Registered(Registered {
            // Bounded where the options are read, so both fit.
            lease_ttl_ms: ttl.as_millis() as u32,
            heartbeat_interval_ms: (ttl / 5).as_millis() as u32,
        }));
        info!(
            worker = id,
            incarnation = record.incarnation,
            gangs = running.len(),
            "worker registered"
        );
        let incarnation = record.incarnation.clone();
        let known = self.workers.get(&id);
        let worker = Worker {
            standing: known.map_or_else(Standing::default, |known| known.standing.clone()),
            record,
            registered: true,
            session: self.sessions,
            link: Some(link),
            heard_before: self.now(),
            detached: self.now(),
        };
        if let Some(Worker {
            link: Some(old), ..
        }) = self.workers.insert(id.clone(), worker)
        {
            old.replace();
        }
        let running: Vec<(JobId, u64)> = running
            .into_iter()
            .map(|gang| (JobId::new(gang.job_id), gang.generation))
            .collect();
        self.revoke_stale(&id, &incarnation, &running);
        self.tell_missed(&id, &incarnation, &running);
        Ok(self.sessions)
    }

    /// Ends what runs of jobs that have no place for this process of the worker any more.
    fn revoke_stale(&self, worker: &str, incarnation: &str, running: &[(JobId, u64)]) {
        for (job, generation) in running {
            let tracked = self.jobs.get(job);
            let member = tracked
                .and_then(|t| t.gang())
                .and_then(|gang| gang.member(worker))
                .is_some_and(|member| member.incarnation == incarnation);
            if !member && self.recruits_on(job, worker, incarnation).is_none() {
                // A later one may be known by now, whose survivors are elsewhere.
                let last = tracked.map_or(0, |t| t.job.generation()).max(*generation);
                let reason = "the gang was ended while the worker was away";
                self.send(worker, revoke(job, last, reason));
            }
        }
    }

    /// Gangs that this very process of the worker is to run: the start, a later generation and the
    /// rendezvous may have been lost with an earlier session, or ranks with it.
    fn tell_missed(&mut self, worker: &str, incarnation: &str, running: &[(JobId, u64)]) {
        let now = self.now();
        let mut missed = Vec::new();
        for (id, tracked) in &mut self.jobs {
            let Some((gang, revision)) = &tracked.job.gang else {
                continue;
            };
            let Some(member) = gang.member(worker).filter(|m| m.incarnation == incarnation) else {
                continue;
            };
            let joined = member
                .ranks()
                .any(|rank| tracked.job.record.ranks.contains_key(&rank));
            let crew = running.iter().find(|(job, _)| job == id);
            let begins = tracked.job.record.state == State::Placing && !joined;
            match crew {
                Some((_, generation)) if *generation == revision.0 => {
                    tracked.absent.remove(worker);
                    // The order to halt may have been lost all the same.
                    missed.extend(halt_of(&tracked.job, worker));
                }
                // It has yet to hear of this generation.
                Some(_) => {
                    missed.push(start_gang(&tracked.job, gang, revision.0, member));
                    missed.extend(halt_of(&tracked.job, worker));
                }
                None if begins => missed.push(start_gang(&tracked.job, gang, revision.0, member)),
                None => {
                    tracked.absent.entry(worker.to_owned()).or_insert(now);
                    continue;
                }
            }
            if let (Some(address), false) = (&tracked.job.record.rendezvous, joined) {
                missed.push(Message::Rendezvous(Rendezvous {
                    job_id: id.to_string(),
                    generation: revision.0,
                    address: address.clone(),
                }));
            }
        }
        let recruits = self
            .jobs
            .keys()
            .filter_map(|id| self.recruits_on(id, worker, incarnation));
        missed.extend(recruits);
        for message in missed {
            self.send(worker, message);
        }
    }

    /// A session has ended. The lease goes on.
    pub(super) fn closed(&mut self, id: &str, session: u64) {
        let now = self.now();
        if let Some(worker) = self.workers.get_mut(id).filter(|w| w.session == session) {
            worker.heard_before = worker.heard();
            worker.link = None;
            worker.detached = now;
            info!(worker = id, "session ended");
        }
    }

    /// Tells each worker of a new generation what it is to run.
    pub(super) fn start(&self, job: &Snapshot) {
        if let Some((gang, revision)) = &job.gang {
            for member in &gang.members {
                let message = start_gang(job, gang, revision.0, member);
                self.send(&member.worker_id, message);
            }
        }
        self.tell_halt(&job.record.job_id);
    }

    /// To a worker's session. Without one, the worker is told when it registers.
    pub(super) fn send(&self, worker: &str, message: Message) {
        if let Some(link) = self.workers.get(worker).and_then(|w| w.link.as_ref()) {
            link.send(message);
        }
    }

    /// Workers that take gangs, whose session is open and whose lease is alive, with their free slots.
    pub(super) fn candidates(&self, now: Millis) -> Vec<Candidate> {
        let wall = wall();
        let alive = |w: &&Worker| w.link.is_some() && now.since(w.heard()) <= self.limits.lease_ttl;
        let mut used: BTreeMap<&str, u32> = BTreeMap::new();
        for tracked in self.jobs.values() {
            let members = tracked.gang().into_iter().flat_map(|gang| &gang.members);
            for member in members {
                *used.entry(&member.worker_id).or_default() += member.seats.len() as u32;
            }
            for recruit in &tracked.job.record.recruits {
                *used.entry(&recruit.worker_id).or_default() += 1;
            }
        }
        self.workers
            .values()
            .filter(alive)
            .filter(|worker| worker.standing.is_open(wall))
            .map(|worker| {
                let WorkerRecord {
                    worker_id, slots, ..
                } = &worker.record;
                let used = used.get(worker_id.as_str()).copied().unwrap_or(0);
                Candidate {
                    worker_id: worker_id.clone(),
                    device: worker.record.device,
                    slots: *slots,
                    free: slots.saturating_sub(used),
                }
            })
            .collect()
    }

    /// It takes gangs.
    pub(super) fn is_open(&self, worker: &str) -> bool {
        let known = self.workers.get(worker);
        known.is_some_and(|worker| worker.standing.is_open(wall()))
    }

    pub(super) fn list_workers(&self) -> Vec<WireWorker> {
        let ids = self.workers.keys();
        ids.filter_map(|id| self.worker_wire(id).ok()).collect()
    }

    /// A worker on the wire.
    pub(super) fn worker_wire(&self, id: &str) -> Result<WireWorker, Error> {
        let (now, wall) = (self.now(), wall());
        let worker = self.workers.get(id);
        let worker = worker.ok_or_else(|| Error::NoSuchWorker(id.to_owned()))?;
        let silence = now.since(worker.heard());
        let seen = if worker.registered {
            wall.saturating_sub(silence.as_millis() as u64)
        } else {
            worker.record.registered
        };
        let used = self.used(id);
        let (standing, standing_reason) = worker.standing.told(wall, used);
        Ok(WireWorker {
            worker_id: id.to_owned(),
            connected: worker.link.is_some() && silence <= self.limits.lease_ttl,
            device: device_wire(worker.record.device).into(),
            slots: worker.record.slots,
            used,
            rendezvous_host: worker.record.rendezvous_host.clone(),
            version: worker.record.version.clone(),
            last_seen_time: Some(timestamp(seen)),
            job_ids: self
                .memberships(id)
                .map(|(job, _)| job.to_string())
                .collect(),
            standing: standing.into(),
            standing_reason,
            faults: worker.standing.count(wall),
        })
    }

    /// Forgets workers that have been gone for long and run nothing. One that is drained stays so.
    pub(super) async fn forget(&mut self, now: Millis) -> Result<(), Error> {
        let gone: Vec<String> = self
            .workers
            .iter()
            .filter(|(_, w)| w.link.is_none() && now.since(w.heard()) > FORGET_AFTER)
            .filter(|(_, w)| w.standing.drain.is_none())
            .filter(|(id, _)| self.memberships(id).next().is_none())
            .map(|(id, _)| id.clone())
            .collect();
        for id in gone {
            let delete = Txn::new()
                .then(Op::delete(keys::worker(&id)))
                .then(Op::delete(keys::standing(&id)))
                .then(Op::delete(keys::acknowledged(&id)));
            self.leader.commit(delete).await?;
            self.workers.remove(&id);
            info!(worker = id, "worker forgotten");
        }
        Ok(())
    }

    fn used(&self, worker: &str) -> u32 {
        #[cfg(feature = "mutants")]
        if espalier_mutants::is("oversubscribed") {
            return 0;
        }
        let of_job = |tracked: &Tracked| {
            let recruits = tracked.job.record.recruits.iter();
            let recruits = recruits.filter(|r| r.worker_id == worker).count();
            let member = tracked.gang().and_then(|gang| gang.member(worker));
            (recruits + member.map_or(0, |member| member.seats.len())) as u32
        };
        self.jobs.values().map(of_job).sum()
    }

    fn memberships(&self, worker: &str) -> impl Iterator<Item = (&JobId, &Member)> {
        self.jobs.iter().filter_map(move |(id, tracked)| {
            tracked.gang()?.member(worker).map(|member| (id, member))
        })
    }
}

/// The order to halt, if the gang is to leave and this worker has its rank 0.
fn halt_of(job: &Snapshot, worker: &str) -> Option<Message> {
    let (host, message) = halt(job)?;
    (host == worker).then_some(message)
}

fn start_gang(job: &Snapshot, gang: &Gang, generation: u64, member: &Member) -> Message {
    Message::StartGang(StartGang {
        job_id: job.record.job_id.to_string(),
        generation,
        world_size: gang.world_size(),
        first_rank: member.first_rank,
        rank_count: member.seats.len() as u32,
        spec_toml: job.record.spec_toml.clone(),
        resume_digest: job.record.checkpoint_digest.clone(),
        committed_step: job.record.committed_step,
        seats: member.seats.iter().map(|seat| seat.id).collect(),
        formation: gang.formation.wire().into(),
        reason: gang.reason.clone(),
    })
}
