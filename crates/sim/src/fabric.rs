//! How fake ranks meet and exchange: the collectives. A message may come to one rank of a group and not
//! to another before its sender ends, so that some have done a step that others have not.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use crate::ledger::State;
use crate::net::{Life, Net};

/// As long as ranks wait for their peers.
const PEERS_DEADLINE: Duration = Duration::from_secs(660);

/// What ranks give each other.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Value {
    /// Steps done; none of a newcomer.
    Done(Option<u64>),
    /// The whole state, of the rank that heals; none of the others.
    Heal(Option<State>),
    /// The state before a step, and what the rank adds to it.
    Part(State, u64),
}

/// The peers are lost: the group has failed.
#[derive(Debug)]
pub(crate) struct Lost(pub(crate) String);

/// All groups.
#[derive(Clone, Debug)]
pub(crate) struct Fabric {
    net: Net,
    groups: Arc<Mutex<BTreeMap<String, Arc<Group>>>>,
}

#[derive(Debug)]
struct Group {
    generation: u64,
    world_size: u32,
    host: Arc<Life>,
    inner: Mutex<Inner>,
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Inner {
    members: BTreeMap<u32, Arc<Life>>,
    /// Those that have left.
    left: BTreeMap<u32, Leave>,
    /// Messages on their way, by sender.
    flying: BTreeMap<u32, usize>,
    /// By receiver, operation and sender.
    inbox: BTreeMap<(u32, u64, u32), Value>,
}

/// How a rank left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leave {
    /// By itself: all that it sent arrives.
    Kindly,
    /// Its process ended, or it gave up: what is on its way may be lost.
    Abruptly,
    /// Its machine vanished: nobody knows.
    Unknown,
}

impl Inner {
    /// The peers see the end of a rank's connections, behind what it sent.
    fn is_gone(&self, rank: u32) -> bool {
        let left = self.left.get(&rank);
        left.is_some_and(|how| *how != Leave::Unknown)
            && self.flying.get(&rank).is_none_or(|flying| *flying == 0)
    }
}

/// A rank's place in a group, which it leaves when this is dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    net: Net,
    group: Arc<Group>,
    pub(crate) rank: u32,
    life: Arc<Life>,
    operation: u64,
    kindly: bool,
}

impl Fabric {
    pub(crate) fn new(net: Net) -> Self {
        Self {
            net,
            groups: Arc::default(),
        }
    }

    /// Rank 0 opens a group; gives the address.
    pub(crate) fn host(
        &self,
        life: &Arc<Life>,
        generation: u64,
        world_size: u32,
    ) -> (String, Seat) {
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        let address = format!("{}:{}", life.name, 50_000 + groups.len());
        let group = Arc::new(Group {
            generation,
            world_size,
            host: life.clone(),
            inner: Mutex::default(),
            changed: watch::Sender::new(()),
        });
        groups.insert(address.clone(), group.clone());
        (address, self.sit(group, 0, life))
    }

    /// A rank comes to a group.
    pub(crate) async fn join(
        &self,
        life: &Arc<Life>,
        address: &str,
        generation: u64,
        rank: u32,
    ) -> Result<Seat, Lost> {
        let group = {
            let groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
            groups.get(address).cloned()
        };
        let group = group.ok_or_else(|| Lost(format!("nobody listens at {address}")))?;
        if !self.net.pass(life, &group.host).await || group.generation != generation {
            return Err(Lost(format!("{address} does not answer")));
        }
        if group.lock().is_gone(0) {
            return Err(Lost(format!("{address} refuses")));
        }
        Ok(self.sit(group, rank, life))
    }

    fn sit(&self, group: Arc<Group>, rank: u32, life: &Arc<Life>) -> Seat {
        group.lock().members.insert(rank, life.clone());
        group.changed.send_replace(());
        Seat {
            net: self.net.clone(),
            group,
            rank,
            life: life.clone(),
            operation: 0,
            kindly: false,
        }
    }
}

impl Seat {
    /// Waits until all are there.
    pub(crate) async fn meet(&mut self) -> Result<(), Lost> {
        let world_size = self.group.world_size;
        let all = |inner: &Inner| (inner.members.len() as u32 == world_size).then_some(());
        self.group.until(all, |_| 0..world_size).await
    }

    /// The rank is about to leave with its work done.
    pub(crate) fn leave_kindly(&mut self) {
        self.kindly = true;
    }

    /// Gives a value to all and takes theirs, in the order of ranks.
    pub(crate) async fn gather(&mut self, value: Value) -> Result<Vec<Value>, Lost> {
        self.operation += 1;
        let (operation, own) = (self.operation, self.rank);
        let world_size = self.group.world_size;
        let members = self.group.lock().members.clone();
        for (peer, life) in members {
            let (net, group, from) = (self.net.clone(), self.group.clone(), self.life.clone());
            let key = (peer, operation, own);
            if peer == own {
                group.lock().inbox.insert(key, value);
                continue;
            }
            *group.lock().flying.entry(own).or_default() += 1;
            tokio::spawn(async move {
                let come = net.pass(&from, &life).await;
                let mut inner = group.lock();
                let abruptly = inner.left.get(&own) == Some(&Leave::Abruptly);
                if come && !(abruptly && net.coin()) {
                    inner.inbox.insert(key, value);
                }
                if let Some(flying) = inner.flying.get_mut(&own) {
                    *flying -= 1;
                }
                drop(inner);
                group.changed.send_replace(());
            });
        }
        let all = |inner: &Inner| {
            let mut ranks = 0..world_size;
            ranks
                .all(|rank| inner.inbox.contains_key(&(own, operation, rank)))
                .then(|| {
                    let of = |rank| inner.inbox.get(&(own, operation, rank)).copied();
                    (0..world_size).filter_map(of).collect::<Vec<_>>()
                })
        };
        let missing = |inner: &Inner| {
            let come = |rank: &u32| !inner.inbox.contains_key(&(own, operation, *rank));
            (0..world_size).filter(come).collect::<Vec<_>>()
        };
        let values = self.group.until(all, missing).await?;
        let mut inner = self.group.lock();
        inner
            .inbox
            .retain(|(to, of, _), _| *to != own || *of > operation);
        Ok(values)
    }
}

impl Group {
    /// Waits for something, as long as those that it needs have not left.
    async fn until<T, N: IntoIterator<Item = u32>>(
        &self,
        found: impl Fn(&Inner) -> Option<T>,
        needed: impl Fn(&Inner) -> N,
    ) -> Result<T, Lost> {
        let mut changed = self.changed.subscribe();
        let waiting = async {
            loop {
                {
                    let inner = self.lock();
                    if let Some(found) = found(&inner) {
                        return Ok(found);
                    }
                    let gone = |rank: &u32| inner.is_gone(*rank);
                    if let Some(rank) = needed(&inner).into_iter().find(gone) {
                        return Err(Lost(format!("rank {rank} closed its connection")));
                    }
                }
                // The sender is the group's own.
                let _ = changed.changed().await;
            }
        };
        timeout(PEERS_DEADLINE, waiting)
            .await
            .unwrap_or_else(|_| Err(Lost("the peers did not come".to_owned())))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every change is whole, whatever panicked.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let how = match (self.life.vanished(), self.kindly) {
            (true, _) => Leave::Unknown,
            (false, true) => Leave::Kindly,
            (false, false) => Leave::Abruptly,
        };
        self.group.lock().left.insert(self.rank, how);
        self.group.changed.send_replace(());
    }
}
