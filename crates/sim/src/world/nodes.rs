//! The processes of a cluster: started, ended as the plan says, and started again.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use espalier_auth::AccessArgs;
use espalier_coordinator::{Options, StoreOptions, run_on};
use espalier_store::Store;
use espalier_store::simulated::{Memory, Way, Wire};
use espalier_worker::agent;
use espalier_worker::args::{AgentArgs, Device};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::async_trait;

use crate::net::{Life, Net};
use crate::outside::{Around, Ranks};
use crate::plan::{Place, Plan};

/// Port of the coordinators.
const PORT: u16 = 7878;
/// Pause before a process that ended by itself is started again.
const AGAIN: Duration = Duration::from_secs(1);
/// Longest wait for a process that was told to stop.
const STOPPING: Duration = Duration::from_secs(15);
/// Orders that wait.
const ORDERS: usize = 64;

/// What a process is told.
#[derive(Clone, Copy, Debug)]
pub(super) enum Command {
    Kill { silent: bool, down: Duration },
    Stop { down: Duration },
}

/// All processes of a cluster.
pub(super) struct Cluster {
    coordinators: Vec<mpsc::Sender<Command>>,
    workers: Vec<mpsc::Sender<Command>>,
    keepers: JoinSet<()>,
}

/// What is needed to start them.
#[derive(Clone)]
struct Site {
    net: Net,
    memory: Memory,
    store: Arc<Life>,
    ranks: Ranks,
    dir: PathBuf,
    addresses: Vec<String>,
}

impl Cluster {
    pub(super) fn start(
        plan: &Plan,
        dir: &Path,
        net: &Net,
        memory: &Memory,
        ranks: &Ranks,
    ) -> Result<Self, String> {
        let site = Site {
            net: net.clone(),
            memory: memory.clone(),
            store: net.live(&Place::Store.to_string()),
            ranks: ranks.clone(),
            dir: dir.to_owned(),
            addresses: (0..plan.coordinators)
                .map(|index| format!("{}:{PORT}", Place::Coordinator(index)))
                .collect(),
        };
        let shared = dir.join("shared");
        std::fs::create_dir_all(&shared)
            .map_err(|error| format!("cannot make {}: {error}", shared.display()))?;
        let mut keepers = JoinSet::new();
        let mut keep = |place: Place, slots: u32| {
            let (orders, received) = mpsc::channel(ORDERS);
            keepers.spawn(site.clone().keep(place, slots, received));
            orders
        };
        Ok(Self {
            coordinators: (0..plan.coordinators)
                .map(|index| keep(Place::Coordinator(index), 0))
                .collect(),
            workers: plan
                .workers
                .iter()
                .enumerate()
                .map(|(index, slots)| keep(Place::Worker(index), *slots))
                .collect(),
            keepers,
        })
    }

    /// Addresses of the coordinators.
    pub(super) fn coordinators(&self) -> Vec<String> {
        (0..self.coordinators.len())
            .map(|index| format!("{}:{PORT}", Place::Coordinator(index)))
            .collect()
    }

    /// Tells a process something. One that is down does not hear it.
    pub(super) fn order(&self, place: Place, command: Command) {
        let orders = match place {
            Place::Coordinator(index) => self.coordinators.get(index),
            Place::Worker(index) => self.workers.get(index),
            Place::Store => None,
        };
        if let Some(orders) = orders {
            // A full queue is that of a process that is told to end already.
            let _ = orders.try_send(command);
        }
    }

    /// Ends all.
    pub(super) async fn stop(&mut self) {
        self.keepers.shutdown().await;
    }
}

impl Site {
    /// Keeps a process of a machine running.
    async fn keep(self, place: Place, slots: u32, mut orders: mpsc::Receiver<Command>) {
        loop {
            while orders.try_recv().is_ok() {}
            let life = self.net.live(&place.to_string());
            let stop = CancellationToken::new();
            let mut task = match place {
                Place::Worker(_) => self.agent(&life, slots),
                Place::Coordinator(_) | Place::Store => self.coordinator(&life, &stop),
            };
            tracing::info!(%place, life = life.number, "STARTS");
            let down = tokio::select! {
                biased;
                order = orders.recv() => match order {
                    Some(Command::Kill { silent, down }) => {
                        self.net.kill(&life, silent);
                        down
                    }
                    Some(Command::Stop { down }) => {
                        stop.cancel();
                        let _ = timeout(STOPPING, &mut task).await;
                        self.net.kill(&life, false);
                        down
                    }
                    None => return,
                },
                ended = &mut task => {
                    tracing::info!(%place, ?ended, "ENDED BY ITSELF");
                    if let Err(panic) = ended && panic.is_panic() {
                        self.ranks.checks.fail(format!("{place} panicked: {panic}"));
                    }
                    self.net.kill(&life, false);
                    AGAIN
                }
            };
            stop.cancel();
            if !task.is_finished() {
                task.abort();
                // So that what it held is let go of: the lock of its folder.
                let _ = (&mut task).await;
            }
            sleep(down).await;
        }
    }

    fn coordinator(&self, life: &Arc<Life>, stop: &CancellationToken) -> JoinHandle<String> {
        let address = format!("{}:{PORT}", life.name);
        let incoming = ReceiverStream::new(self.net.listen(&address, life));
        let options = Options {
            data_dir: self.dir.join("shared"),
            // The store is given; this says that it is shared.
            store: StoreOptions::Etcd(Box::default()),
            start_deadline: Duration::from_secs(60),
            infrastructure_restarts: 200,
            hold: Duration::from_secs(30),
            advertise: address,
            ..Options::default()
        };
        let wire = StoreWire {
            net: self.net.clone(),
            life: life.clone(),
            store: self.store.clone(),
        };
        let store = Store::simulated(self.memory.clone(), Arc::new(wire));
        let stop = stop.clone();
        tokio::spawn(async move {
            let ended = run_on(&options, &store, incoming, stop).await;
            format!("{ended:?}")
        })
    }

    fn agent(&self, life: &Arc<Life>, slots: u32) -> JoinHandle<String> {
        let args = AgentArgs {
            coordinator: self
                .addresses
                .iter()
                .map(|at| format!("http://{at}"))
                .collect(),
            dir: self.dir.join(&life.name),
            id: Some(life.name.clone()),
            slots,
            device: Device::Cpu,
            host: life.name.clone(),
            access: AccessArgs::default(),
        };
        let outside = Around {
            net: self.net.clone(),
            life: life.clone(),
            ranks: self.ranks.clone(),
            sockets: Mutex::default(),
        };
        tokio::spawn(async move {
            let ended = agent::serve(args, Arc::new(outside), std::future::pending()).await;
            format!("{ended:?}")
        })
    }
}

/// Between a coordinator and the store.
struct StoreWire {
    net: Net,
    life: Arc<Life>,
    store: Arc<Life>,
}

#[async_trait]
impl Wire for StoreWire {
    async fn carry(&self, way: Way) {
        let arrived = match way {
            Way::There => self.net.pass_store(&self.life, &self.store, true).await,
            Way::Back => self.net.pass_store(&self.store, &self.life, false).await,
        };
        if !arrived {
            std::future::pending().await
        }
    }
}
