//! The network: messages that take their time, wait while machines are parted, and end with a process.

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use espalier_random::{ChaCha8Rng, Rng as _};
use tokio::io::{
    AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, ReadHalf, WriteHalf, duplex, split,
};
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::plan::{Draw, Quality, draws};

/// Bytes that are carried at once, and that a socket holds.
const WINDOW: usize = 64 << 10;
/// Connections that wait to be accepted.
const BACKLOG: usize = 128;
/// How much later a message comes that had to be sent again.
const AGAIN: (u64, u64) = (200_000, 1_500_000);

/// The network. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Net(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    quality: Quality,
    state: Mutex<State>,
    /// Something has changed that messages may wait for.
    changed: watch::Sender<()>,
    lives: AtomicU64,
}

#[derive(Debug)]
struct State {
    rng: ChaCha8Rng,
    calm: bool,
    listeners: BTreeMap<String, (Arc<Life>, mpsc::Sender<io::Result<DuplexStream>>)>,
    /// Machines between which messages wait, from and to.
    parted: BTreeSet<(String, String)>,
    /// Machines for which all of them do.
    frozen: BTreeSet<String>,
    open: Vec<(Arc<Life>, Arc<Life>, CancellationToken)>,
    /// What each message to the store takes longer.
    store_delay: Duration,
}

/// A process, from its start to its end.
#[derive(Debug)]
pub(crate) struct Life {
    /// The machine.
    pub(crate) name: String,
    /// Of all processes.
    pub(crate) number: u64,
    end: watch::Sender<Option<End>>,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Its machine closed its connections.
    Told,
    /// Nobody hears of it.
    Silent,
}

impl Life {
    fn end(&self) -> Option<End> {
        *self.end.borrow()
    }

    /// Goes on unless the process has ended.
    pub(crate) async fn while_it_lasts(&self) {
        if self.end().is_some() {
            pending().await
        }
    }

    /// Whether nobody hears of its end.
    pub(crate) fn vanished(&self) -> bool {
        self.end() == Some(End::Silent)
    }
}

impl Net {
    pub(crate) fn new(seed: u64, quality: Quality) -> Self {
        Self(Arc::new(Inner {
            quality,
            state: Mutex::new(State {
                rng: draws(seed, Draw::Network),
                calm: false,
                listeners: BTreeMap::new(),
                parted: BTreeSet::new(),
                frozen: BTreeSet::new(),
                open: Vec::new(),
                store_delay: Duration::ZERO,
            }),
            changed: watch::Sender::new(()),
            lives: AtomicU64::new(0),
        }))
    }

    /// A process starts on a machine.
    pub(crate) fn live(&self, name: &str) -> Arc<Life> {
        Arc::new(Life {
            name: name.to_owned(),
            number: self.0.lives.fetch_add(1, Ordering::Relaxed),
            end: watch::Sender::new(None),
        })
    }

    /// It ends: what it sends from now on goes nowhere.
    pub(crate) fn kill(&self, life: &Life, silent: bool) {
        let end = if silent { End::Silent } else { End::Told };
        life.end.send_replace(Some(end));
        let mut state = self.state();
        state
            .listeners
            .retain(|_, (owner, _)| owner.number != life.number);
        if !silent {
            for (a, b, cut) in &state.open {
                if a.number == life.number || b.number == life.number {
                    cut.cancel();
                }
            }
        }
        drop(state);
        self.0.changed.send_replace(());
    }

    /// Takes connections to an address from now on.
    pub(crate) fn listen(
        &self,
        address: &str,
        life: &Arc<Life>,
    ) -> mpsc::Receiver<io::Result<DuplexStream>> {
        let (sender, receiver) = mpsc::channel(BACKLOG);
        let listener = (life.clone(), sender);
        self.state().listeners.insert(address.to_owned(), listener);
        receiver
    }

    /// Connects a process to an address, `host:port`, by which other processes of the host are found too.
    pub(crate) async fn connect(
        &self,
        from: &Arc<Life>,
        address: &str,
    ) -> io::Result<DuplexStream> {
        let host = address.split(':').next().unwrap_or(address);
        if !self.reaches(from, &from.name, host).await {
            pending::<()>().await;
        }
        let found = self.state().listeners.get(address).cloned();
        let Some((to, listener)) = found else {
            return Err(io::ErrorKind::ConnectionRefused.into());
        };
        let (ours, near) = duplex(WINDOW);
        let (far, theirs) = duplex(WINDOW);
        if listener.send(Ok(theirs)).await.is_err() {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let cut = CancellationToken::new();
        let (near_reads, near_writes) = split(near);
        let (far_reads, far_writes) = split(far);
        let carry = |from: &Arc<Life>, to: &Arc<Life>, reader, writer| {
            let (net, from, to) = (self.clone(), from.clone(), to.clone());
            tokio::spawn(net.carry(from, to, reader, writer, cut.clone()));
        };
        carry(from, &to, near_reads, far_writes);
        carry(&to, from, far_reads, near_writes);
        let mut state = self.state();
        state.open.retain(|(_, _, cut)| !cut.is_cancelled());
        state.open.push((from.clone(), to, cut));
        drop(state);
        Ok(ours)
    }

    async fn carry(
        self,
        from: Arc<Life>,
        to: Arc<Life>,
        mut reader: ReadHalf<DuplexStream>,
        mut writer: WriteHalf<DuplexStream>,
        cut: CancellationToken,
    ) {
        let mut buffer = vec![0; WINDOW];
        let carrying = async {
            loop {
                let size = reader.read(&mut buffer).await.unwrap_or(0);
                if !self.pass(&from, &to).await {
                    return;
                }
                if size == 0 {
                    let _ = writer.shutdown().await;
                    return;
                }
                if writer.write_all(&buffer[..size]).await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            biased;
            () = cut.cancelled() => {}
            () = carrying => {}
        }
        // The other way ends too: nobody uses a connection that is half closed.
        cut.cancel();
    }

    /// A message between two processes: returns when it has come; false when one of them is no more.
    /// When nobody hears of the end of one, it never returns.
    pub(crate) async fn pass(&self, from: &Life, to: &Life) -> bool {
        let passed = self.reaches(from, &from.name, &to.name).await;
        match to.end() {
            Some(End::Silent) => pending().await,
            Some(End::Told) => false,
            None => passed,
        }
    }

    /// As [`Net::pass`], to a machine. What was on its way when the sender ended may still come.
    async fn reaches(&self, sender: &Life, from: &str, to: &str) -> bool {
        let (delay, survives) = self.fate(from, to);
        let mut changed = self.0.changed.subscribe();
        let gone = sender.end().is_some();
        sleep(delay).await;
        loop {
            match sender.end() {
                Some(End::Silent) if gone || !survives => pending().await,
                Some(End::Told) if gone || !survives => return false,
                _ => {}
            }
            if !self.waits(from, to) {
                return true;
            }
            // The sender of the news lives as long as the network.
            let _ = changed.changed().await;
        }
    }

    fn fate(&self, from: &str, to: &str) -> (Duration, bool) {
        let Quality { delay_us, late, .. } = self.0.quality;
        let mut state = self.state();
        let mut delay = delay_us.0 + state.rng.random_range(0..delay_us.1.max(1));
        if !state.calm && state.rng.random_bool(late) {
            delay += state.rng.random_range(AGAIN.0..AGAIN.1);
        }
        let survives = state.rng.random_bool(0.5);
        let mut delay = Duration::from_micros(delay);
        if from == to {
            delay = Duration::from_micros(50);
        }
        (delay, survives)
    }

    /// A chance of a half.
    pub(crate) fn coin(&self) -> bool {
        self.state().rng.random_bool(0.5)
    }

    fn waits(&self, from: &str, to: &str) -> bool {
        let state = self.state();
        let frozen = |name: &str| state.frozen.contains(name);
        let parted = state.parted.contains(&(from.to_owned(), to.to_owned()));
        from != to && (parted || frozen(from) || frozen(to))
    }

    /// A message to the store or from it: false when it is lost.
    pub(crate) async fn pass_store(&self, from: &Life, to: &Life, write: bool) -> bool {
        let (lost, delay) = {
            let mut state = self.state();
            let lost = !state.calm && state.rng.random_bool(self.0.quality.lost);
            (
                lost,
                if write {
                    state.store_delay
                } else {
                    Duration::ZERO
                },
            )
        };
        sleep(delay).await;
        self.pass(from, to).await && !lost
    }

    pub(crate) fn part(&self, from: &str, to: &str, both: bool, parted: bool) {
        let mut state = self.state();
        let one = (from.to_owned(), to.to_owned());
        let other = (to.to_owned(), from.to_owned());
        for way in [Some(one), both.then_some(other)].into_iter().flatten() {
            if parted {
                state.parted.insert(way);
            } else {
                state.parted.remove(&way);
            }
        }
        drop(state);
        self.0.changed.send_replace(());
    }

    pub(crate) fn freeze(&self, name: &str, frozen: bool) {
        let mut state = self.state();
        if frozen {
            state.frozen.insert(name.to_owned());
        } else {
            state.frozen.remove(name);
        }
        drop(state);
        self.0.changed.send_replace(());
    }

    /// Resets the connections of a machine.
    pub(crate) fn reset(&self, name: &str) {
        for (a, b, cut) in &self.state().open {
            if a.name == name || b.name == name {
                cut.cancel();
            }
        }
    }

    pub(crate) fn slow_store(&self, by: Duration) {
        self.state().store_delay = by;
    }

    /// Nothing goes wrong any more.
    pub(crate) fn calm(&self) {
        let mut state = self.state();
        state.calm = true;
        state.parted.clear();
        state.frozen.clear();
        state.store_delay = Duration::ZERO;
        drop(state);
        self.0.changed.send_replace(());
    }

    /// Every change is whole, whatever panicked.
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
