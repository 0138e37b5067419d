//! The leader's loop: one task that owns what this process knows of jobs and workers. Everything that
//! may change a gang comes to it through one bounded channel; each decision is one transaction of the
//! store, and is acted on once that has committed. What is in memory can be lost at any time: it is
//! read again from the store, and told again by the workers when they register.

mod handle;
mod intake;
mod jobs;
mod placing;
mod queues;
mod reconcile;
mod recover;
mod standings;
mod stragglers;
mod tracked;
mod withdraw;
mod workers;

use std::collections::BTreeMap;
use std::time::Duration;

use espalier_store::{Leader, Range, Store};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use handle::Command;
pub(crate) use handle::{Handle, Link, Outgoing};
use intake::Submit;
pub(crate) use jobs::cut;
use tracked::{Tracked, Worker};

use crate::clock::{Clock, Millis};
use crate::error::Error;
use crate::job::{JobId, Snapshot};
use crate::keys;
use crate::membership::Limits;
use crate::queue::Queue;

/// Most jobs that have not ended.
const MAX_JOBS: usize = 10_000;

/// Commands that wait for the loop.
const QUEUE: usize = 1024;

/// Tries of a transaction whose conditions fail because others write too.
pub(crate) const ATTEMPTS: usize = 32;

/// The loop.
pub(crate) struct Control {
    leader: Leader,
    clock: Clock,
    limits: Limits,
    /// Jobs that have not ended, as last read or written.
    jobs: BTreeMap<JobId, Tracked>,
    workers: BTreeMap<String, Worker>,
    /// The queues that were set.
    queues: BTreeMap<String, Queue>,
    sessions: u64,
    commands: mpsc::Receiver<Command>,
    /// When the right to lead is to be renewed, if it has an end.
    renewal: Option<Instant>,
}

impl Control {
    /// Reads what is stored. Workers count as heard now: a lease's time for them to come back.
    pub(crate) async fn load(
        leader: Leader,
        clock: Clock,
        limits: Limits,
    ) -> Result<(Self, Handle), Error> {
        let (sender, commands) = mpsc::channel(QUEUE);
        let mut control = Self {
            renewal: leader.renew_every().map(|every| Instant::now() + every),
            leader,
            clock,
            limits,
            jobs: BTreeMap::new(),
            workers: BTreeMap::new(),
            queues: BTreeMap::new(),
            sessions: 0,
            commands,
        };
        for entry in all(control.store(), keys::JOBS).await? {
            let job = Snapshot::with_gang(control.store(), &entry).await?;
            control.track(job);
            control.keep_leading().await?;
        }
        for entry in all(control.store(), keys::WORKERS).await? {
            control.remember(&entry)?;
        }
        control.read_standings().await?;
        control.read_queues().await?;
        info!(
            jobs = control.jobs.len(),
            workers = control.workers.len(),
            "state read"
        );
        Ok((control, Handle::new(sender)))
    }

    /// Runs until `stop`, or until the store can no longer be trusted. The right to lead is renewed
    /// here, between two pieces of work: a loop that hangs loses it.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> Result<(), Error> {
        let mut tick = tokio::time::interval(
            self.limits
                .lease_ttl
                .div_f64(20.0)
                .clamp(Duration::from_millis(10), Duration::from_millis(250)),
        );
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.keep_leading().await?;
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = due(self.renewal) => continue,
                _ = tick.tick() => self.refresh_gangs().await?,
                command = self.commands.recv() => match command {
                    Some(command) => self.obey(command).await?,
                    None => return Ok(()),
                },
            }
            self.reconcile().await?;
        }
    }

    /// Renews the right to lead when it is time. Work that takes long calls it between its pieces.
    async fn keep_leading(&mut self) -> Result<(), Error> {
        if self.renewal.is_some_and(|at| at <= Instant::now()) {
            self.leader.renew().await?;
            self.renewal = self
                .leader
                .renew_every()
                .map(|every| Instant::now() + every);
        }
        Ok(())
    }

    async fn obey(&mut self, command: Command) -> Result<(), Error> {
        match command {
            Command::Submit(submission, reply) => {
                let (batch, next) = self.gather(Submit { submission, reply });
                self.accept(batch).await?;
                match next {
                    // No submit, or it would be in the batch.
                    Some(next) => Box::pin(self.obey(next)).await,
                    None => Ok(()),
                }
            }
            Command::Cancel(job, reason, reply) => reply.send(self.cancel(&job, &reason).await),
            Command::Pause(job, reason, reply) => reply.send(self.pause(&job, &reason).await),
            Command::Resume(job, reply) => reply.send(self.resume(&job).await),
            Command::Register(registration, reply) => {
                reply.send(self.register(*registration).await)
            }
            Command::Closed(worker, session) => {
                self.closed(&worker, session);
                Ok(())
            }
            Command::Rendezvous(worker, ready, reply) => {
                reply.send(self.rendezvous(&worker, &ready).await)
            }
            Command::Report(worker, report, reply) => {
                reply.send(self.rank_report(&worker, &report).await)
            }
            Command::Recovered(worker, report, reply) => {
                reply.send(self.recovered(&worker, &report).await)
            }
            Command::Trained(job, generation, reply) => {
                reply.send(self.trained(&job, generation).await)
            }
            Command::Progress(worker, ranks) => {
                self.progress(&worker, &ranks);
                Ok(())
            }
            Command::Workers(reply) => reply.send(Ok(self.list_workers())),
            Command::Drain(worker, reason, within, reply) => {
                reply.send(self.drain(&worker, &reason, within).await)
            }
            Command::Open(worker, reply) => reply.send(self.open(&worker).await),
            Command::Queues(reply) => reply.send(Ok(self.list_queues())),
            Command::SetQueue(name, queue, reply) => reply.send(self.set_queue(&name, queue).await),
            Command::DeleteQueue(name, reply) => reply.send(self.delete_queue(&name).await),
            Command::Changed(job) => self.refresh(&job).await,
        }
    }

    fn store(&self) -> &Store {
        self.leader.store()
    }

    fn now(&self) -> Millis {
        self.clock.now()
    }

    /// Reads a job again after someone else wrote it.
    async fn refresh(&mut self, id: &JobId) -> Result<(), Error> {
        if let Some(job) = Snapshot::load(self.store(), id).await? {
            self.track(job);
        }
        Ok(())
    }

    /// Reads the jobs that have gangs again: a publish ends them from outside the loop, and the word
    /// of it may be lost.
    async fn refresh_gangs(&mut self) -> Result<(), Error> {
        let with_gangs = self.jobs.iter().filter(|(_, job)| job.gang().is_some());
        let ids: Vec<JobId> = with_gangs.map(|(id, _)| id.clone()).collect();
        for id in ids {
            self.keep_leading().await?;
            self.refresh(&id).await?;
        }
        Ok(())
    }

    fn track(&mut self, job: Snapshot) {
        let id = job.record.job_id.clone();
        if job.record.state.is_terminal() {
            if let Some(ended) = self.jobs.remove(&id) {
                info!(job = %id, state = %job.record.state, reason = job.record.reason, "job ended");
                // Its last ranks may be on their way out: the workers' slots are free from now on.
                self.tell_revoked(&id, ended.job.placed(), "the job has ended");
            }
            return;
        }
        debug!(job = %id, state = %job.record.state, generation = job.generation(), "job read");
        let now = self.now();
        match self.jobs.get_mut(&id) {
            Some(tracked) => tracked.update(job, now),
            None => {
                self.jobs.insert(id, Tracked::new(job, now));
            }
        }
    }
}

/// Waits until it is time to renew, if it ever is.
async fn due(renewal: Option<Instant>) {
    match renewal {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

async fn all(store: &Store, prefix: &str) -> Result<Vec<espalier_store::Entry>, Error> {
    let mut found: Vec<espalier_store::Entry> = Vec::new();
    loop {
        let mut range = Range::prefix(prefix);
        if let Some(last) = found.last() {
            range = range.after(last.key.clone());
        }
        let page = store.range(range).await?;
        found.extend(page.entries);
        if !page.more {
            return Ok(found);
        }
    }
}
