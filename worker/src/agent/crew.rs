//! Leads a crew: serves its processes, watches them, and takes them from one generation to the next.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use espalier_proto::v1::{Formation, StartGang};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval};
use tokio_util::sync::CancellationToken;

use super::assets::Assets;
use super::connection::{Event, Handed, Sender};
use super::gang::{Command, Place};
use super::key::GangKey;
use super::mailbox::Reporter;
use super::outside::Spawn;
use super::push::{PushError, Pusher};
use super::report::{RankStatus, Report};
use super::roster::Roster;
use crate::ipc::{self, Fault, FromRank, Group, Start, ToRank};

/// How often deadlines are looked at.
const TICK: Duration = Duration::from_secs(1);
/// How long a checkpoint of a generation that is over waits for the one that follows.
const PARKED: Duration = Duration::from_secs(60);

/// A crew whose processes have been started.
pub(super) struct Crew {
    /// The gang that it began with.
    pub(super) key: GangKey,
    pub(super) spec_toml: String,
    pub(super) place: Place,
    pub(super) reporter: Reporter,
    pub(super) vacated: mpsc::Sender<(GangKey, u64)>,
    pub(super) run_dir: PathBuf,
    pub(super) pusher: Pusher,
    pub(super) assets: Assets,
    /// The order of the present generation; none while there are recruits alone.
    pub(super) group: Option<StartGang>,
    /// Where a generation meets.
    pub(super) rendezvous: Option<(u64, String)>,
    /// The generation that is to halt.
    pub(super) halt: Option<u64>,
    pub(super) roster: Roster,
    pub(super) start: Instant,
    pub(super) senders: BTreeMap<u64, Sender>,
    pub(super) kill: BTreeMap<u64, CancellationToken>,
    /// Processes to start once those that die have gone from their slots.
    pub(super) recruits: BTreeMap<u64, u32>,
    /// A checkpoint whose generation is over, and since when.
    pub(super) parked: Option<(Handed, Duration)>,
    pub(super) events: mpsc::Sender<Event>,
    pub(super) received: mpsc::Receiver<Event>,
    pub(super) tasks: JoinSet<()>,
}

impl Crew {
    /// Serves until every process has ended.
    pub(super) async fn serve(
        &mut self,
        commands: &mut mpsc::Receiver<Command>,
        stop: &CancellationToken,
    ) {
        let mut tick = interval(TICK);
        let mut stopping = false;
        while !self.roster.ended() || !self.recruits.is_empty() {
            tokio::select! {
                () = stop.cancelled(), if !stopping => {
                    stopping = true;
                    self.recruits.clear();
                    self.kill_all("was stopped");
                }
                Some(command) = commands.recv(), if !stopping => self.obey(command).await,
                Some(event) = self.received.recv() => self.handle(event).await,
                _ = tick.tick() => self.kill_overdue(),
            }
            self.launch_recruits();
        }
    }

    /// What is left are the listener and readers of closed pipes.
    pub(super) async fn end(mut self) {
        self.tasks.shutdown().await;
    }

    /// Starts a process.
    pub(super) fn launch(&mut self, seat: u64, slot: u32) -> io::Result<()> {
        let token = CancellationToken::new();
        let spawn = Spawn {
            seat,
            slot,
            device: self.place.device,
            run_dir: &self.run_dir,
        };
        let reporter = self.reporter.clone();
        let logs = Box::new(move |lines| reporter.logs(seat, lines));
        let process = self.place.outside.start(&spawn, logs, token.clone())?;
        self.roster.add(seat, self.now());
        let events = self.events.clone();
        self.tasks.spawn(async move {
            let exit = process.await;
            // The receiver is gone only when the crew is being dropped.
            let _ = events.send(Event::Exited { seat, exit }).await;
        });
        self.kill.insert(seat, token);
        Ok(())
    }

    fn launch_recruits(&mut self) {
        if self.roster.dying() {
            return;
        }
        for (seat, slot) in std::mem::take(&mut self.recruits) {
            if let Err(error) = self.launch(seat, slot) {
                let reason = format!("cannot start a rank in {}: {error}", self.run_dir.display());
                self.fail(seat, reason);
                self.vacate(seat);
            }
        }
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn gang(&self) -> GangKey {
        self.reporter.gang()
    }

    async fn obey(&mut self, command: Command) {
        match command {
            Command::Regroup(order) => self.regroup(*order).await,
            Command::Recruit(order, slots) => {
                for seat in order.seats {
                    // One that has ended was reported, and does not come back.
                    if self.roster.knows(seat) {
                        self.vacate(seat);
                    } else if let Some(slot) = slots.get(&seat) {
                        self.recruits.insert(seat, *slot);
                    }
                }
            }
            Command::Halt(generation) => {
                self.halt = Some(generation);
                for seat in self.senders.keys().copied().collect::<Vec<_>>() {
                    self.tell_halt(seat).await;
                }
            }
            Command::Rendezvous {
                generation,
                address,
            } => {
                self.rendezvous = Some((generation, address));
                for seat in self.senders.keys().copied().collect::<Vec<_>>() {
                    self.tell_rendezvous(seat).await;
                }
            }
        }
    }

    /// Leads the processes that have a seat in the new generation into it, and kills the others.
    async fn regroup(&mut self, order: StartGang) {
        let key = GangKey::new(&order.job_id, order.generation);
        let ranks: BTreeMap<u64, u32> = order
            .seats
            .iter()
            .copied()
            .zip(order.first_rank..)
            .collect();
        tracing::info!(gang = %key, ?ranks, world_size = order.world_size, reason = order.reason, "new generation");
        self.reporter.advance(key.clone(), ranks.clone());
        self.pusher.advance(&key);
        self.group = Some(order);
        for seat in self.roster.seats() {
            if !ranks.contains_key(&seat) && self.roster.works(seat) {
                self.roster.dismissed(seat);
                self.kill(seat, "has no place in the new generation".to_owned());
            }
        }
        self.recruits.retain(|seat, _| ranks.contains_key(seat));
        for (seat, _) in ranks {
            if self.roster.works(seat) {
                self.tell_group(seat).await;
            } else {
                self.fail(seat, "its process has ended".to_owned());
            }
        }
        self.push_parked();
    }

    async fn handle(&mut self, event: Event) {
        match event {
            Event::Connected { seat, sender } => match self.roster.connected(seat) {
                Ok(()) => self.welcome(seat, sender).await,
                Err(reason) => tracing::warn!(gang = %self.gang(), reason, "connection refused"),
            },
            Event::Said { seat, message } => self.hear(seat, message),
            Event::Disconnected { seat } => {
                self.senders.remove(&seat);
                self.place.pulse.forget(&self.key.job_id, seat);
                if let Some(reason) = self.roster.disconnected(seat, self.now()) {
                    self.fail(seat, reason);
                }
            }
            Event::Exited { seat, exit } => {
                if let Some(reason) = self.roster.exited(seat, exit) {
                    self.fail(seat, reason);
                }
                self.vacate(seat);
            }
            Event::Pushed {
                handed,
                generation,
                result,
            } => self.pushed(handed, generation, result).await,
        }
    }

    async fn welcome(&mut self, seat: u64, sender: Sender) {
        let start = ToRank::Start(Start {
            job_id: self.key.job_id.clone(),
            spec_toml: self.spec_toml.clone(),
            run_dir: self.run_dir.clone(),
            rendezvous_host: self.place.rendezvous_host.clone(),
            resume: self.assets.resume.clone(),
            init: self.assets.init.clone(),
            teacher: self.assets.teacher.clone(),
        });
        self.senders.insert(seat, sender);
        self.tell(seat, &start).await;
        self.tell_group(seat).await;
        self.tell_rendezvous(seat).await;
        self.tell_halt(seat).await;
    }

    /// A recruit is told nothing until it has a rank.
    async fn tell_group(&mut self, seat: u64) {
        let (Some(order), Some(rank)) = (&self.group, self.reporter.rank_of(seat)) else {
            return;
        };
        let group = ToRank::Group(Group {
            generation: order.generation,
            rank,
            world_size: order.world_size,
            committed_step: order.committed_step,
            formation: match order.formation() {
                // They wait to be told of a later one.
                Formation::Held => return,
                Formation::Unspecified | Formation::Fresh => ipc::Formation::Fresh,
                Formation::Survivors => ipc::Formation::Survivors,
                Formation::Planned => ipc::Formation::Planned,
            },
            reason: order.reason.clone(),
        });
        self.tell(seat, &group).await;
    }

    async fn tell_rendezvous(&mut self, seat: u64) {
        if let Some((generation, address)) = self.rendezvous.clone() {
            let message = ToRank::Rendezvous {
                generation,
                address,
            };
            self.tell(seat, &message).await;
        }
    }

    async fn tell_halt(&mut self, seat: u64) {
        let present = self.halt == Some(self.gang().generation);
        if present && self.reporter.rank_of(seat) == Some(0) {
            self.tell(seat, &ToRank::Halt).await;
        }
    }

    /// A rank that cannot be told is about to be seen disconnecting.
    async fn tell(&mut self, seat: u64, message: &ToRank) {
        if let Some(sender) = self.senders.get_mut(&seat)
            && let Err(error) = sender.send(message).await
        {
            tracing::warn!(gang = %self.gang(), seat, %error, "message to the rank was lost");
        }
    }

    /// What a rank says of a generation that is over is passed over.
    fn hear(&mut self, seat: u64, message: FromRank) {
        let reporter = &self.reporter;
        let current = |generation: u64| reporter.gang().generation == generation;
        match message {
            FromRank::Hello { .. } => tracing::warn!(seat, "said hello twice"),
            FromRank::Ready => {
                if reporter.rank_of(seat).is_none() {
                    reporter.rank(seat, RankStatus::Ready);
                }
            }
            FromRank::RendezvousReady {
                generation,
                address,
            } => {
                if current(generation) {
                    reporter.announce(address);
                }
            }
            FromRank::Running {
                generation,
                total_steps,
            } => {
                if current(generation) {
                    reporter.settle();
                    reporter.rank(seat, RankStatus::Running { total_steps });
                }
            }
            FromRank::Halted { generation } => {
                if current(generation) {
                    reporter.rank(seat, RankStatus::Halted);
                }
            }
            FromRank::Waiting { generation, reason } => {
                if current(generation) {
                    reporter.rank(seat, RankStatus::Waiting { reason });
                }
            }
            FromRank::Recovered(recovered) => {
                if current(recovered.generation) {
                    reporter.push(Report::Recovered(recovered));
                }
            }
            FromRank::Progress(progress) => {
                self.place.pulse.heard(&self.key.job_id, seat, progress);
            }
            FromRank::Metrics(metrics) => reporter.push(Report::Metrics(Box::new(metrics))),
            FromRank::Warning { reason } => reporter.push(Report::Warning { reason }),
            FromRank::Checkpoint { step, dir, kind } => self.push(Handed {
                seat,
                step,
                dir,
                kind,
            }),
            FromRank::Failed { fault, reason } => {
                self.settle(seat, RankStatus::Failed { fault, reason });
            }
            FromRank::Done => self.settle(seat, RankStatus::Done),
        }
    }

    fn settle(&mut self, seat: u64, status: RankStatus) {
        if self.roster.settled(seat, self.now()) {
            self.reporter.rank(seat, status);
        }
    }

    fn fail(&self, seat: u64, reason: String) {
        let fault = Fault::Infrastructure;
        self.reporter
            .rank(seat, RankStatus::Failed { fault, reason });
    }

    /// Its slot is free.
    fn vacate(&self, seat: u64) {
        if self.vacated.try_send((self.key.clone(), seat)).is_err() {
            tracing::warn!(gang = %self.gang(), seat, "slot stays taken until the crew has ended");
        }
    }

    fn push(&mut self, handed: Handed) {
        let pusher = self.pusher.clone();
        let events = self.events.clone();
        self.tasks.spawn(async move {
            let result = pusher.push(handed.step, &handed.dir, handed.kind).await;
            let generation = pusher.generation();
            // The receiver is gone only when the crew is being dropped.
            let _ = events
                .send(Event::Pushed {
                    handed,
                    generation,
                    result,
                })
                .await;
        });
    }

    /// Only rank 0's checkpoints count: what another process handed over when it was rank 0 is handed
    /// over anew by the one that is.
    fn push_parked(&mut self) {
        if let Some((handed, _)) = self.parked.take()
            && self.reporter.rank_of(handed.seat) == Some(0)
        {
            self.push(handed);
        }
    }

    async fn pushed(&mut self, handed: Handed, generation: u64, result: Result<String, PushError>) {
        let (seat, step) = (handed.seat, handed.step);
        match result {
            Ok(digest) => {
                tracing::info!(gang = %self.gang(), step, digest, "checkpoint is durable");
                self.pusher.follow(&digest);
                self.tell(seat, &ToRank::Stored { step, digest }).await;
            }
            Err(error @ PushError::Stale(_)) => {
                tracing::info!(gang = %self.gang(), step, %error, "checkpoint is of a generation that is over");
                self.parked = Some((handed, self.now()));
                if self.pusher.generation() > generation {
                    self.push_parked();
                }
            }
            Err(_) if self.reporter.rank_of(seat) != Some(0) => {}
            Err(error) => {
                let reason = format!("checkpoint of step {step}: {error}");
                let fault = Fault::Infrastructure;
                self.settle(seat, RankStatus::Failed { fault, reason });
                self.kill(seat, "lost a checkpoint".to_owned());
            }
        }
    }

    fn kill_all(&mut self, reason: &str) {
        for seat in self.kill.keys().copied().collect::<Vec<_>>() {
            self.kill(seat, reason.to_owned());
        }
    }

    fn kill_overdue(&mut self) {
        for (seat, reason) in self.roster.overdue(self.now()) {
            self.kill(seat, reason);
        }
        let now = self.now();
        if self
            .parked
            .take_if(|(_, since)| now > *since + PARKED)
            .is_some()
        {
            self.kill_all("belongs to a generation of the past");
        }
    }

    fn kill(&mut self, seat: u64, reason: String) {
        tracing::info!(gang = %self.gang(), seat, reason, "rank is killed");
        self.roster.killed(seat, reason);
        if let Some(token) = self.kill.get(&seat) {
            token.cancel();
        }
    }
}
