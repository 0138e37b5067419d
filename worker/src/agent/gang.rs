//! The ranks of one gang on this worker: started, served, watched, and gone when the task ends.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use espalier_job::Job;
use espalier_proto::v1::StartGang;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval};
use tokio_util::sync::CancellationToken;

use super::assets::{self, Assets};
use super::connection::{self, Event, Sender};
use super::coordinators::Coordinators;
use super::key::GangKey;
use super::mailbox::Reporter;
use super::push::{PushError, Pusher};
use super::rank_process::{self, Spawn};
use super::report::{RankStatus, Report};
use super::roster::Roster;
use crate::args::Device;
use crate::ipc::{CheckpointKind, Fault, FromRank, Start, ToRank};

/// Events of ranks that wait to be handled; a rank that talks faster waits.
const EVENTS: usize = 256;
/// How often deadlines are looked at.
const TICK: Duration = Duration::from_secs(1);

/// What all gangs of a worker share.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// Folder of the gangs' folders.
    pub(super) runs: PathBuf,
    /// Those who have the registry.
    pub(super) coordinators: Coordinators,
    /// Host at which other workers reach the ranks.
    pub(super) rendezvous_host: String,
    /// Where tensors live.
    pub(super) device: Device,
}

/// A gang to run.
pub(super) struct Gang {
    pub(super) key: GangKey,
    pub(super) order: StartGang,
    pub(super) slots: Vec<u32>,
    pub(super) place: Place,
    pub(super) reporter: Reporter,
    /// Where rank 0 listens, once known.
    pub(super) rendezvous: watch::Receiver<Option<String>>,
    /// Cancelled when the gang is revoked or the agent stops.
    pub(super) stop: CancellationToken,
}

impl Gang {
    /// Runs the ranks until all have ended, or `stop` is cancelled and all are killed.
    pub(super) async fn run(self) {
        let run_dir = self
            .place
            .runs
            .join(format!("{}-{}", self.key.job_id, self.key.generation));
        let served = tokio::select! {
            () = self.stop.cancelled() => Ok(()),
            served = self.prepare(&run_dir) => match served {
                Ok(running) => {
                    running.serve().await;
                    Ok(())
                }
                Err(failure) => Err(failure),
            },
        };
        if let Err((fault, reason)) = served {
            self.fail_all(fault, &reason);
        }
        if let Err(error) = tokio::fs::remove_dir_all(&run_dir).await
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(gang = %self.key, path = %run_dir.display(), %error, "folder could not be removed");
        }
    }

    fn ranks(&self) -> std::ops::Range<u32> {
        self.order.first_rank..self.order.first_rank + self.order.rank_count
    }

    fn fail_all(&self, fault: Fault, reason: &str) {
        for rank in self.ranks() {
            let reason = reason.to_owned();
            self.reporter
                .rank(rank, RankStatus::Failed { fault, reason });
        }
    }

    /// Fetches what the ranks need and starts their processes.
    async fn prepare(&self, run_dir: &Path) -> Result<Running<'_>, (Fault, String)> {
        let here = |error: std::io::Error, what: &str| {
            let reason = format!("cannot {what} {}: {error}", run_dir.display());
            (Fault::Infrastructure, reason)
        };
        let job = Job::parse(&self.order.spec_toml)
            .map_err(|problems| (Fault::User, format!("the job file is refused:\n{problems}")))?;
        tokio::fs::create_dir_all(run_dir)
            .await
            .map_err(|e| here(e, "make the folder"))?;
        let assets = assets::fetch(&self.place.coordinators, &self.order, &job, run_dir).await?;
        let listener = connection::listen(run_dir).map_err(|e| here(e, "listen on a socket in"))?;

        let (events, received) = mpsc::channel(EVENTS);
        let mut tasks = JoinSet::new();
        tasks.spawn(connection::accept(listener, events.clone()));
        let mut kill = BTreeMap::new();
        for rank in self.ranks() {
            let token = CancellationToken::new();
            let spawn = Spawn {
                rank,
                slots: &self.slots,
                device: self.place.device,
                run_dir,
            };
            let process = rank_process::start(&spawn, self.reporter.clone(), token.clone())
                .map_err(|e| here(e, "start a rank in"))?;
            let events = events.clone();
            tasks.spawn(async move {
                let exit = process.await;
                // The receiver is gone only when the gang is being dropped.
                let _ = events.send(Event::Exited { rank, exit }).await;
            });
            kill.insert(rank, token);
        }
        let start = Instant::now();
        Ok(Running {
            gang: self,
            run_dir: run_dir.to_path_buf(),
            pusher: Pusher::new(
                &self.place.coordinators,
                &self.key,
                &job,
                &self.order,
                assets.teacher_digest,
            ),
            assets,
            roster: Roster::new(self.ranks(), Duration::ZERO),
            start,
            senders: BTreeMap::new(),
            kill,
            events,
            received,
            tasks,
        })
    }
}

/// A gang whose processes have been started.
struct Running<'a> {
    gang: &'a Gang,
    run_dir: PathBuf,
    pusher: Pusher,
    assets: Assets,
    roster: Roster,
    start: Instant,
    senders: BTreeMap<u32, Sender>,
    kill: BTreeMap<u32, CancellationToken>,
    events: mpsc::Sender<Event>,
    received: mpsc::Receiver<Event>,
    tasks: JoinSet<()>,
}

impl Running<'_> {
    async fn serve(mut self) {
        let mut tick = interval(TICK);
        let mut rendezvous = self.gang.rendezvous.clone();
        let stop = self.gang.stop.clone();
        let mut stopping = false;
        while !self.roster.ended() {
            tokio::select! {
                () = stop.cancelled(), if !stopping => {
                    stopping = true;
                    self.kill_all("was stopped");
                }
                Some(event) = self.received.recv() => self.handle(event).await,
                Ok(()) = rendezvous.changed() => self.tell_rendezvous().await,
                _ = tick.tick() => self.kill_overdue(),
            }
        }
        // What is left are the listener and readers of closed pipes.
        self.tasks.shutdown().await;
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    async fn handle(&mut self, event: Event) {
        match event {
            Event::Connected { rank, sender } => match self.roster.connected(rank) {
                Ok(()) => self.welcome(rank, sender).await,
                Err(reason) => tracing::warn!(gang = %self.gang.key, reason, "connection refused"),
            },
            Event::Said { rank, message } => self.hear(rank, message),
            Event::Disconnected { rank } => {
                self.senders.remove(&rank);
                let failure = self.roster.disconnected(rank, self.now());
                self.report_failure(rank, failure);
            }
            Event::Exited { rank, exit } => {
                let failure = self.roster.exited(rank, exit);
                self.report_failure(rank, failure);
            }
            Event::Pushed { step, result } => self.pushed(step, result).await,
        }
    }

    async fn welcome(&mut self, rank: u32, sender: Sender) {
        let order = &self.gang.order;
        let start = ToRank::Start(Start {
            job_id: order.job_id.clone(),
            generation: order.generation,
            rank,
            world_size: order.world_size,
            spec_toml: order.spec_toml.clone(),
            run_dir: self.run_dir.clone(),
            rendezvous_host: self.gang.place.rendezvous_host.clone(),
            committed_step: order.committed_step,
            resume: self.assets.resume.clone(),
            init: self.assets.init.clone(),
            teacher: self.assets.teacher.clone(),
        });
        self.senders.insert(rank, sender);
        self.tell(rank, &start).await;
        let address = self.gang.rendezvous.borrow().clone();
        if let Some(address) = address {
            self.tell(rank, &ToRank::Rendezvous { address }).await;
        }
    }

    async fn tell_rendezvous(&mut self) {
        let address = self.gang.rendezvous.borrow().clone();
        let Some(address) = address else { return };
        let ranks: Vec<u32> = self.senders.keys().copied().collect();
        for rank in ranks {
            let message = ToRank::Rendezvous {
                address: address.clone(),
            };
            self.tell(rank, &message).await;
        }
    }

    /// A rank that cannot be told is about to be seen disconnecting.
    async fn tell(&mut self, rank: u32, message: &ToRank) {
        if let Some(sender) = self.senders.get_mut(&rank)
            && let Err(error) = sender.send(message).await
        {
            tracing::warn!(gang = %self.gang.key, rank, %error, "message to the rank was lost");
        }
    }

    fn hear(&mut self, rank: u32, message: FromRank) {
        let reporter = &self.gang.reporter;
        match message {
            FromRank::Hello { .. } => tracing::warn!(rank, "said hello twice"),
            FromRank::RendezvousReady { address } => reporter.announce(address),
            FromRank::Running { total_steps } => {
                reporter.settle();
                reporter.rank(rank, RankStatus::Running { total_steps });
            }
            FromRank::Metrics(metrics) => reporter.push(Report::Metrics(Box::new(metrics))),
            FromRank::Warning { reason } => reporter.push(Report::Warning { reason }),
            FromRank::Checkpoint { step, dir, kind } => self.push(step, dir, kind),
            FromRank::Failed { fault, reason } => {
                self.settle(rank, RankStatus::Failed { fault, reason });
            }
            FromRank::Done => self.settle(rank, RankStatus::Done),
        }
    }

    fn settle(&mut self, rank: u32, status: RankStatus) {
        if self.roster.settled(rank, self.now()) {
            self.gang.reporter.rank(rank, status);
        }
    }

    fn report_failure(&self, rank: u32, failure: Option<String>) {
        if let Some(reason) = failure {
            let fault = Fault::Infrastructure;
            let status = RankStatus::Failed { fault, reason };
            self.gang.reporter.rank(rank, status);
        }
    }

    fn push(&mut self, step: u64, dir: PathBuf, kind: CheckpointKind) {
        let pusher = self.pusher.clone();
        let events = self.events.clone();
        self.tasks.spawn(async move {
            let result = pusher.push(step, &dir, kind).await;
            // The receiver is gone only when the gang is being dropped.
            let _ = events.send(Event::Pushed { step, result }).await;
        });
    }

    async fn pushed(&mut self, step: u64, result: Result<String, PushError>) {
        match result {
            Ok(digest) => {
                tracing::info!(gang = %self.gang.key, step, digest, "checkpoint is durable");
                self.pusher.follow(&digest);
                // Only rank 0 hands checkpoints over.
                self.tell(0, &ToRank::Stored { step, digest }).await;
            }
            Err(error @ PushError::Stale(_)) => {
                tracing::info!(gang = %self.gang.key, step, %error, "gang is of the past");
                self.kill_all("belongs to a generation of the past");
            }
            Err(error) => {
                let reason = format!("checkpoint of step {step}: {error}");
                let fault = Fault::Infrastructure;
                self.settle(0, RankStatus::Failed { fault, reason });
                self.kill_all("lost a checkpoint");
            }
        }
    }

    fn kill_all(&mut self, reason: &str) {
        let ranks: Vec<u32> = self.kill.keys().copied().collect();
        for rank in ranks {
            self.kill(rank, reason.to_owned());
        }
    }

    fn kill_overdue(&mut self) {
        for (rank, reason) in self.roster.overdue(self.now()) {
            self.kill(rank, reason);
        }
    }

    fn kill(&mut self, rank: u32, reason: String) {
        tracing::info!(gang = %self.gang.key, rank, reason, "rank is killed");
        self.roster.killed(rank, reason);
        if let Some(token) = self.kill.get(&rank) {
            token.cancel();
        }
    }
}
