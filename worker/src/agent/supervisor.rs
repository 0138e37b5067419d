//! Takes the coordinator's orders, decides by [`State`], and owns the gangs' tasks.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use espalier_proto::v1::session_response::Message as Incoming;
use espalier_proto::v1::{Rendezvous, RunningGang, StartGang};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::coordinators::Coordinators;
use super::gang::{Gang, Place};
use super::key::GangKey;
use super::mailbox::Mailbox;
use super::report::RankStatus;
use super::session::Order;
use super::state::{Action, State};
use crate::args::AgentArgs;
use crate::ipc::Fault;

/// How long gangs that were told to stop may take to kill and reap their ranks.
const STOP: Duration = Duration::from_secs(30);

/// Owns the gangs of this worker.
pub(super) struct Supervisor {
    state: State,
    place: Place,
    mailbox: Mailbox,
    gangs: BTreeMap<GangKey, Handle>,
    tasks: JoinSet<GangKey>,
}

/// The way to a gang's task.
struct Handle {
    stop: CancellationToken,
    gone: CancellationToken,
    rendezvous: watch::Sender<Option<String>>,
}

impl Supervisor {
    pub(super) fn new(
        args: &AgentArgs,
        coordinators: Coordinators,
        runs: PathBuf,
        mailbox: Mailbox,
    ) -> Self {
        Self {
            state: State::new(args.slots),
            place: Place {
                runs,
                coordinators,
                rendezvous_host: args.host.clone(),
                device: args.device,
            },
            mailbox,
            gangs: BTreeMap::new(),
            tasks: JoinSet::new(),
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
            }
        }
    }

    /// Kills every gang and waits until all are gone, at most [`STOP`].
    pub(super) async fn stop_all(&mut self) {
        for handle in self.gangs.values() {
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
                gangs.extend(self.state.running().cloned());
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
            Order::Message(Incoming::Revoke(revoke)) => {
                let action = self.state.revoke(&revoke);
                self.act(action);
            }
            Order::Message(Incoming::Rendezvous(rendezvous)) => self.rendezvous(rendezvous),
            Order::Message(other @ (Incoming::Registered(_) | Incoming::Ack(_))) => {
                tracing::warn!(message = ?other, "message out of place");
            }
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Start { gang, order, slots } => self.start(gang, *order, slots),
            Action::Stop { gang, reason } => {
                tracing::info!(%gang, reason, "gang is stopped");
                self.mailbox.update(|outbox| outbox.retract(&gang));
                if let Some(handle) = self.gangs.get(&gang) {
                    handle.stop.cancel();
                }
            }
            Action::Refuse {
                gang,
                ranks,
                reason,
            } => {
                tracing::warn!(%gang, reason, "gang is refused");
                let reporter = self.mailbox.open(gang.clone());
                for rank in ranks {
                    reporter.rank(
                        rank,
                        RankStatus::Failed {
                            fault: Fault::Infrastructure,
                            reason: format!("the worker refused the gang: {reason}"),
                        },
                    );
                }
                self.mailbox.update(|outbox| outbox.finish(&gang));
            }
            Action::Ignore { gang, reason } => tracing::debug!(%gang, reason, "order is ignored"),
        }
    }

    fn start(&mut self, gang: GangKey, order: StartGang, slots: Vec<u32>) {
        tracing::info!(%gang, ?slots, first_rank = order.first_rank, world_size = order.world_size, "gang starts");
        let (stop, gone) = (CancellationToken::new(), CancellationToken::new());
        let (rendezvous, address) = watch::channel(None);
        // A gang that was stopped has given back its slots, but may still be dying in them.
        let dying: Vec<CancellationToken> = self
            .gangs
            .values()
            .filter(|handle| handle.stop.is_cancelled())
            .map(|handle| handle.gone.clone())
            .collect();
        let task = Gang {
            key: gang.clone(),
            order,
            slots,
            place: self.place.clone(),
            reporter: self.mailbox.open(gang.clone()),
            rendezvous: address,
            stop: stop.clone(),
        };
        self.tasks.spawn(async move {
            for gone in dying {
                gone.cancelled().await;
            }
            let key = task.key.clone();
            task.run().await;
            key
        });
        let handle = Handle {
            stop,
            gone,
            rendezvous,
        };
        self.gangs.insert(gang, handle);
    }

    fn rendezvous(&self, rendezvous: Rendezvous) {
        let gang = GangKey::new(&rendezvous.job_id, rendezvous.generation);
        match self.gangs.get(&gang) {
            Some(handle) => {
                handle.rendezvous.send_replace(Some(rendezvous.address));
            }
            None => tracing::debug!(%gang, "rendezvous of a gang that does not run here"),
        }
    }

    fn ended(&mut self, ended: Result<GangKey, tokio::task::JoinError>) {
        match ended {
            Ok(gang) => {
                tracing::info!(%gang, "gang has ended");
                self.state.ended(&gang);
                self.mailbox.update(|outbox| outbox.finish(&gang));
                if let Some(handle) = self.gangs.remove(&gang) {
                    handle.gone.cancel();
                }
            }
            // A gang's task that panicked is a defect of the agent: its ranks died with it, and the
            // coordinator hears of it by the agent's restart.
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}
