//! Takes the coordinator's orders, decides by [`State`], and owns the gangs' tasks.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use espalier_proto::v1::session_response::Message as Incoming;
use espalier_proto::v1::{Rendezvous, RunningGang};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::coordinators::Coordinators;
use super::gang::{Begin, Command, Gang, Place};
use super::key::GangKey;
use super::mailbox::Mailbox;
use super::outside::Outside;
use super::pulse::Pulse;
use super::report::RankStatus;
use super::session::Order;
use super::state::{Action, State};
use crate::args::AgentArgs;
use crate::ipc::Fault;

/// How long gangs that were told to stop may take to kill and reap their ranks.
const STOP: Duration = Duration::from_secs(30);

/// Commands on their way to a crew; one that does not take them is killed.
const COMMANDS: usize = 64;
/// Seats on their way to be free again.
const VACATED: usize = 4096;

/// Owns the crews of this worker.
pub(super) struct Supervisor {
    state: State,
    place: Place,
    mailbox: Mailbox,
    /// By the gang that each began with.
    crews: BTreeMap<GangKey, Handle>,
    tasks: JoinSet<(GangKey, Vec<Command>)>,
    vacate: mpsc::Sender<(GangKey, u64)>,
    vacated: mpsc::Receiver<(GangKey, u64)>,
}

/// The way to a crew's task.
struct Handle {
    stop: CancellationToken,
    gone: CancellationToken,
    commands: mpsc::Sender<Command>,
    /// Commands that came after the crew's end, until it is gone.
    late: Vec<Command>,
}

impl Supervisor {
    pub(super) fn new(
        args: &AgentArgs,
        outside: Arc<dyn Outside>,
        coordinators: Coordinators,
        runs: PathBuf,
        mailbox: Mailbox,
        pulse: Pulse,
    ) -> Self {
        let (vacate, vacated) = mpsc::channel(VACATED);
        Self {
            state: State::new(args.slots),
            place: Place {
                runs,
                coordinators,
                rendezvous_host: args.host.clone(),
                device: args.device,
                pulse,
                outside,
            },
            mailbox,
            crews: BTreeMap::new(),
            tasks: JoinSet::new(),
            vacate,
            vacated,
        }
    }

    /// Follows orders until `stop` ends.
    pub(super) async fn serve(
        &mut self,
        mut orders: mpsc::Receiver<Order>,
        stop: impl Future<Output = ()>,
    ) {
        tokio::pin!(stop);
        loop {
            tokio::select! {
                () = &mut stop => return,
                order = orders.recv() => match order {
                    Some(order) => self.obey(order),
                    None => return,
                },
                Some(ended) = self.tasks.join_next() => self.ended(ended),
                Some((crew, seat)) = self.vacated.recv() => self.state.vacated(&crew, seat),
            }
        }
    }

    /// Kills every gang and waits until all are gone, at most [`STOP`].
    pub(super) async fn stop_all(&mut self) {
        for handle in self.crews.values() {
            handle.stop.cancel();
        }
        let all_gone = async {
            while let Some(ended) = self.tasks.join_next().await {
                self.ended(ended);
            }
        };
        if timeout(STOP, all_gone).await.is_err() {
            tracing::warn!(gangs = self.tasks.len(), "gangs did not end in time");
            // Ranks are killed when their tasks are dropped.
            self.tasks.shutdown().await;
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            // Gangs that have ended but whose last reports are on their way count as running: the
            // reports, not their absence, say how they ended.
            Order::Running(answer) => {
                let mut gangs = self.mailbox.unacknowledged();
                gangs.extend(self.state.running());
                let running = gangs.into_iter().map(|gang| RunningGang {
                    job_id: gang.job_id,
                    generation: gang.generation,
                });
                // A session that has ended meanwhile asks again.
                let _ = answer.send(running.collect());
            }
            Order::Message(Incoming::StartGang(order)) => {
                for action in self.state.start(order) {
                    self.act(action);
                }
            }
            Order::Message(Incoming::Recruit(order)) => {
                let action = self.state.recruit(order);
                self.act(action);
            }
            Order::Message(Incoming::Revoke(revoke)) => {
                let action = self.state.revoke(&revoke);
                self.act(action);
            }
            Order::Message(Incoming::Rendezvous(rendezvous)) => self.rendezvous(rendezvous),
            Order::Message(Incoming::Halt(halt)) => {
                if let Some(crew) = self.state.crew(&halt.job_id) {
                    self.command(&crew, Command::Halt(halt.generation));
                }
            }
            Order::Message(other @ (Incoming::Registered(_) | Incoming::Ack(_))) => {
                tracing::warn!(message = ?other, "message out of place");
            }
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Start { crew, order, slots } => {
                tracing::info!(gang = %crew, ?slots, first_rank = order.first_rank, world_size = order.world_size, "gang starts");
                let ranks = order
                    .seats
                    .iter()
                    .copied()
                    .zip(order.first_rank..)
                    .collect();
                self.start(crew, Begin::Gang(order), slots, ranks);
            }
            Action::Regroup { crew, order } => self.command(&crew, Command::Regroup(order)),
            Action::Recruit {
                crew,
                order,
                slots,
                anew: true,
            } => {
                tracing::info!(gang = %crew, ?slots, "recruits start");
                self.start(crew, Begin::Recruits(order), slots, BTreeMap::new());
            }
            Action::Recruit {
                crew, order, slots, ..
            } => {
                tracing::info!(gang = %crew, ?slots, "recruits start");
                self.command(&crew, Command::Recruit(order, slots));
            }
            Action::Stop {
                crew,
                generation,
                reason,
            } => {
                tracing::info!(gang = %crew, generation, reason, "gang is stopped");
                let last = GangKey::new(&crew.job_id, generation);
                self.mailbox.update(|outbox| outbox.retract(&last));
                if let Some(handle) = self.crews.get(&crew) {
                    handle.stop.cancel();
                }
            }
            Action::Refuse {
                gang,
                seats,
                reason,
            } => {
                tracing::warn!(%gang, reason, "gang is refused");
                let reporter = self.mailbox.open(gang, seats.clone());
                for seat in seats.into_keys() {
                    reporter.rank(
                        seat,
                        RankStatus::Failed {
                            fault: Fault::Infrastructure,
                            reason: format!("the worker refused the gang: {reason}"),
                        },
                    );
                }
                reporter.finish();
            }
            Action::Ignore { gang, reason } => tracing::debug!(%gang, reason, "order is ignored"),
        }
    }

    fn start(
        &mut self,
        crew: GangKey,
        begin: Begin,
        slots: BTreeMap<u64, u32>,
        ranks: BTreeMap<u64, u32>,
    ) {
        let (stop, gone) = (CancellationToken::new(), CancellationToken::new());
        let (commands, received) = mpsc::channel(COMMANDS);
        // A crew that was stopped has given back its slots, but may still be dying in them.
        let dying: Vec<CancellationToken> = self
            .crews
            .values()
            .filter(|handle| handle.stop.is_cancelled())
            .map(|handle| handle.gone.clone())
            .collect();
        let task = Gang {
            key: crew.clone(),
            begin,
            slots,
            place: self.place.clone(),
            reporter: self.mailbox.open(crew.clone(), ranks),
            commands: received,
            vacated: self.vacate.clone(),
            stop: stop.clone(),
        };
        self.tasks.spawn(async move {
            for gone in dying {
                gone.cancelled().await;
            }
            let key = task.key.clone();
            (key, task.run().await)
        });
        let handle = Handle {
            stop,
            gone,
            commands,
            late: Vec::new(),
        };
        self.crews.insert(crew, handle);
    }

    /// A crew that has just ended gets no more commands; what was meant for it is decided anew once it is
    /// gone.
    fn command(&mut self, crew: &GangKey, command: Command) {
        let Some(handle) = self.crews.get_mut(crew) else {
            return;
        };
        match handle.commands.try_send(command) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Closed(command)) => handle.late.push(command),
            Err(mpsc::error::TrySendError::Full(_)) => {
                tracing::error!(gang = %crew, "the crew takes no commands; it is stopped");
                handle.stop.cancel();
            }
        }
    }

    /// Decides on a command that came too late for its crew.
    fn again(&mut self, command: Command) {
        let action = match command {
            Command::Regroup(order) => self.state.late(*order),
            Command::Recruit(order, _) => self.state.recruit(*order),
            Command::Rendezvous { .. } | Command::Halt(_) => return,
        };
        self.act(action);
    }

    fn rendezvous(&mut self, rendezvous: Rendezvous) {
        let Some(crew) = self.state.crew(&rendezvous.job_id) else {
            tracing::debug!(
                job = rendezvous.job_id,
                "rendezvous of a gang that does not run here"
            );
            return;
        };
        let command = Command::Rendezvous {
            generation: rendezvous.generation,
            address: rendezvous.address,
        };
        self.command(&crew, command);
    }

    fn ended(&mut self, ended: Result<(GangKey, Vec<Command>), tokio::task::JoinError>) {
        match ended {
            Ok((crew, late)) => {
                tracing::info!(gang = %crew, "gang has ended");
                self.state.ended(&crew);
                let Some(handle) = self.crews.remove(&crew) else {
                    return;
                };
                handle.gone.cancel();
                if !handle.stop.is_cancelled() {
                    for command in late.into_iter().chain(handle.late) {
                        self.again(command);
                    }
                }
            }
            // A crew's task that panicked is a defect of the agent: its ranks died with it, and the
            // coordinator hears of it by the agent's restart.
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}
