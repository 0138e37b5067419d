//! The world around a simulated agent: connections over the simulated network, and fake ranks for
//! processes.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use espalier_proto::v1::LogLine;
use espalier_random::{ChaCha8Rng, Rng as _};
use espalier_worker::agent::{Duplex, Exit, Listener, Logs, Outside, RankProcess, Spawn};
use hyper_util::rt::TokioIo;
use tokio::io::duplex;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tonic::async_trait;
use tonic::transport::{Channel, Endpoint, Error, Uri};
use tower::service_fn;

use crate::checks::Checks;
use crate::fabric::Fabric;
use crate::net::{Life, Net};
use crate::rank::Rank;

/// Bytes that a rank's socket holds.
const SOCKET: usize = 64 << 10;

/// A channel from a process to a coordinator.
pub(crate) async fn dial(
    net: &Net,
    life: &Arc<Life>,
    endpoint: Endpoint,
) -> Result<Channel, Error> {
    let (net, life) = (net.clone(), life.clone());
    let connect = service_fn(move |uri: Uri| {
        let (net, life) = (net.clone(), life.clone());
        async move {
            let address = uri.authority().map_or("", |authority| authority.as_str());
            net.connect(&life, address).await.map(TokioIo::new)
        }
    });
    endpoint.connect_with_connector(connect).await
}

/// What all agents' worlds share.
#[derive(Clone)]
pub(crate) struct Ranks {
    pub(crate) fabric: Fabric,
    pub(crate) checks: Checks,
    pub(crate) steps: Arc<BTreeMap<u64, Duration>>,
    pub(crate) rng: Arc<Mutex<ChaCha8Rng>>,
    /// The ways to end and to stop each process that runs, by its number.
    pub(crate) switches: Arc<Mutex<BTreeMap<u64, Switches>>>,
}

/// The ways to end a process and to stop it.
#[derive(Clone)]
pub(crate) struct Switches {
    pub(crate) kill: CancellationToken,
    pub(crate) stopped: Arc<watch::Sender<bool>>,
}

/// The world of one agent.
pub(crate) struct Around {
    pub(crate) net: Net,
    pub(crate) life: Arc<Life>,
    pub(crate) ranks: Ranks,
    pub(crate) sockets: Mutex<BTreeMap<PathBuf, mpsc::Sender<Box<dyn Duplex>>>>,
}

impl fmt::Debug for Around {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Around").field(&self.life.name).finish()
    }
}

struct Sockets(mpsc::Receiver<Box<dyn Duplex>>);

#[async_trait]
impl Listener for Sockets {
    async fn accept(&mut self) -> io::Result<Box<dyn Duplex>> {
        match self.0.recv().await {
            Some(stream) => Ok(stream),
            // Nobody connects any more.
            None => std::future::pending().await,
        }
    }
}

#[async_trait]
impl Outside for Around {
    async fn dial(&self, endpoint: Endpoint) -> Result<Channel, Error> {
        self.life.while_it_lasts().await;
        dial(&self.net, &self.life, endpoint).await
    }

    fn listen(&self, run_dir: &Path) -> io::Result<Box<dyn Listener>> {
        let (sender, receiver) = mpsc::channel(64);
        let mut sockets = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        sockets.insert(run_dir.to_owned(), sender);
        Ok(Box::new(Sockets(receiver)))
    }

    fn start(
        &self,
        spawn: &Spawn<'_>,
        logs: Logs,
        kill: CancellationToken,
    ) -> io::Result<RankProcess> {
        let socket = {
            let sockets = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
            sockets.get(spawn.run_dir).cloned()
        };
        let socket = socket.ok_or(io::ErrorKind::NotFound)?;
        let folder = spawn
            .run_dir
            .file_name()
            .unwrap_or_default()
            .to_string_lossy();
        let job = folder.split('-').next().unwrap_or_default().to_owned();
        let running = self.ranks.begin(&self.life, &job, spawn);
        let (load, prepare) = {
            let mut rng = self
                .ranks
                .rng
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            (rng.random_range(50..1500), rng.random_range(50..1500))
        };
        let rank = Rank {
            seat: spawn.seat,
            life: self.life.clone(),
            fabric: self.ranks.fabric.clone(),
            checks: self.ranks.checks.clone(),
            stopped: running.switches.stopped.subscribe(),
            prepare: Duration::from_millis(prepare),
            steps: self.ranks.steps.clone(),
        };
        Ok(Box::pin(async move {
            let lives = async move {
                sleep(Duration::from_millis(load)).await;
                logs(vec![LogLine {
                    time: None,
                    text: format!("seat {} has loaded", rank.seat),
                }]);
                let (ours, theirs) = duplex(SOCKET);
                // When nobody listens the rank sees the end of its connection.
                let _ = socket.send(Box::new(theirs)).await;
                rank.run(Box::new(ours)).await
            };
            let killed = || Exit {
                status: "signal 9".to_owned(),
                last_line: None,
            };
            let by_fault = running.switches.kill.clone();
            let exit = tokio::select! {
                biased;
                () = kill.cancelled() => killed(),
                () = by_fault.cancelled() => killed(),
                exit = lives => exit,
            };
            // Until it is reaped.
            sleep(Duration::from_millis(5)).await;
            drop(running);
            exit
        }))
    }
}

/// A process that runs.
struct Running {
    number: u64,
    switches: Switches,
    ranks: Ranks,
}

impl Ranks {
    fn begin(&self, life: &Life, job: &str, spawn: &Spawn<'_>) -> Running {
        let place = (life.name.as_str(), life.number);
        let number = self.checks.started(place, job, spawn.seat, spawn.slot);
        let switches = Switches {
            kill: CancellationToken::new(),
            stopped: Arc::new(watch::Sender::new(false)),
        };
        let mut all = self.switches.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(number, switches.clone());
        Running {
            number,
            switches,
            ranks: self.clone(),
        }
    }

    /// One of the processes that run.
    pub(crate) fn pick(&self, pick: u32) -> Option<(u64, Switches)> {
        let running = self.checks.running();
        let number = *running.get(pick as usize % running.len().max(1))?;
        let all = self.switches.lock().unwrap_or_else(PoisonError::into_inner);
        Some((number, all.get(&number)?.clone()))
    }

    /// Those that are stopped go on.
    pub(crate) fn go_on(&self) {
        let all = self.switches.lock().unwrap_or_else(PoisonError::into_inner);
        for switches in all.values() {
            switches.stopped.send_replace(false);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.ranks.checks.ended(self.number);
        let mut all = self
            .ranks
            .switches
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        all.remove(&self.number);
    }
}
