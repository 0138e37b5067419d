use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::memory::State;
use super::{Memory, Way, Wire};
use crate::backend::{Backend, Term};
use crate::etcd::Slots;
use crate::leader::LEADER_KEY;
use crate::watch::WatchSource;
use crate::{
    Changes, Compare, Entry, LeaseId, Limits, Op, Outcome, Page, Range, Revision, StoreError, Txn,
    Watch,
};

/// As etcd takes by default.
const LIMITS: Limits = Limits {
    ops: 125,
    bytes: 1 << 20,
};
/// As the client of etcd waits.
const DEADLINE: Duration = Duration::from_secs(5);
const ATTEMPT: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(50);
/// Time between two looks of a candidate.
const LOOK: Duration = Duration::from_millis(200);

/// A process's way to the memory.
pub(crate) struct Remote {
    memory: Memory,
    wire: Arc<dyn Wire>,
    closed: watch::Sender<bool>,
}

impl Remote {
    pub(crate) fn new(memory: Memory, wire: Arc<dyn Wire>) -> Self {
        Self {
            memory,
            wire,
            closed: watch::Sender::new(false),
        }
    }

    /// What may be done several times, tried until it is answered.
    async fn call<T: Send>(
        &self,
        work: impl Fn(&mut State) -> T + Send + Sync,
    ) -> Result<T, StoreError> {
        let work = &work;
        let attempt = || async move {
            self.wire.carry(Way::There).await;
            let answer = work(&mut self.memory.state());
            self.wire.carry(Way::Back).await;
            answer
        };
        self.until_answered(attempt)
            .await?
            .ok_or_else(|| StoreError::Unreachable("no answer".to_owned()))
    }

    /// What is done once, by the attempt that arrives first. One that was given up is still under way.
    async fn once(&self, txn: Txn, writer: Option<Revision>) -> Result<Outcome, StoreError> {
        let made: Arc<Mutex<Option<Result<Outcome, StoreError>>>> = Arc::default();
        let attempt = || {
            let (memory, wire, txn) = (self.memory.clone(), self.wire.clone(), txn.clone());
            let made = made.clone();
            let sent = tokio::spawn(async move {
                wire.carry(Way::There).await;
                let answer = {
                    let mut made = made.lock().unwrap_or_else(PoisonError::into_inner);
                    made.get_or_insert_with(|| memory.state().apply(&txn, writer))
                        .clone()
                };
                wire.carry(Way::Back).await;
                answer
            });
            async {
                let lost =
                    |error: tokio::task::JoinError| Err(StoreError::Unknown(error.to_string()));
                sent.await.unwrap_or_else(lost)
            }
        };
        self.until_answered(attempt)
            .await?
            .unwrap_or_else(|| Err(StoreError::Unknown("no answer".to_owned())))
    }

    async fn until_answered<T, F: Future<Output = T> + Send>(
        &self,
        attempt: impl Fn() -> F + Send,
    ) -> Result<Option<T>, StoreError> {
        let give_up = Instant::now() + DEADLINE;
        while Instant::now() < give_up {
            if *self.closed.borrow() {
                return Err(StoreError::Closed);
            }
            if let Ok(answer) = timeout(ATTEMPT, attempt()).await {
                return Ok(Some(answer));
            }
            sleep(PAUSE).await;
        }
        Ok(None)
    }

    async fn stand(&self, id: &str) -> Result<Option<Term>, StoreError> {
        let ttl = self.memory.state().leader_ttl;
        let lease = self.grant(ttl).await?;
        let name = Txn::new()
            .when(Compare::Absent(LEADER_KEY.to_owned()))
            .then(Op::put_leased(LEADER_KEY, id, lease));
        match self.once(name, None).await {
            Ok(Outcome::Committed(fence)) => Ok(Some(Term {
                fence,
                lease: Some((ttl, lease)),
                slots: Slots::default(),
            })),
            lost => {
                // If this fails, the lease ends by itself.
                let _ = self.revoke(lease).await;
                lost.map(|_| None)
            }
        }
    }
}

#[async_trait]
impl Backend for Remote {
    fn limits(&self) -> Limits {
        LIMITS
    }

    async fn get(&self, key: String) -> Result<Option<Entry>, StoreError> {
        self.call(|state| state.get(&key)).await
    }

    async fn range(&self, range: Range) -> Result<Page, StoreError> {
        self.call(|state| state.range(&range)).await
    }

    fn watch(&self, prefix: String, from: Revision) -> Watch {
        Watch::new(RemoteWatch {
            memory: self.memory.clone(),
            wire: self.wire.clone(),
            latest: self.memory.state().latest(),
            closed: self.closed.subscribe(),
            prefix,
            from,
            ready: VecDeque::new(),
        })
    }

    async fn campaign(&self, id: &str) -> Result<Term, StoreError> {
        loop {
            if self.get(LEADER_KEY.to_owned()).await?.is_none()
                && let Some(term) = self.stand(id).await?
            {
                return Ok(term);
            }
            sleep(LOOK).await;
        }
    }

    async fn commit(&self, term: &Term, txn: Txn) -> Result<Outcome, StoreError> {
        self.once(txn, Some(term.fence)).await
    }

    async fn renew(&self, term: &Term) -> Result<(), StoreError> {
        match term.lease {
            Some((_, lease)) => self.keep_alive(lease).await,
            None => Ok(()),
        }
    }

    async fn resign(&self, term: &Term) -> Result<(), StoreError> {
        let Some((_, lease)) = term.lease else {
            return Ok(());
        };
        match self.revoke(lease).await {
            Err(StoreError::LeaseNotFound(_)) => Ok(()),
            other => other,
        }
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.call(|state| state.grant(ttl)).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.call(|state| state.keep_alive(lease)).await?
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.call(|state| state.revoke(lease)).await?
    }

    async fn close(&self) {
        self.closed.send_replace(true);
    }
}

/// A reader of the log that sleeps until there is more of it.
struct RemoteWatch {
    memory: Memory,
    wire: Arc<dyn Wire>,
    latest: watch::Receiver<Revision>,
    closed: watch::Receiver<bool>,
    prefix: String,
    from: Revision,
    ready: VecDeque<Changes>,
}

#[async_trait]
impl WatchSource for RemoteWatch {
    async fn next(&mut self) -> Result<Changes, StoreError> {
        loop {
            if *self.closed.borrow() {
                return Err(StoreError::Closed);
            }
            if let Some(changes) = self.ready.pop_front() {
                return Ok(changes);
            }
            let from = self.from;
            tokio::select! {
                _ = self.closed.changed() => continue,
                more = self.latest.wait_for(|latest| *latest >= from) => {
                    more.map_err(|_| StoreError::Closed)?;
                }
            }
            self.wire.carry(Way::Back).await;
            let (found, next) = self.memory.state().log(&self.prefix, from)?;
            self.ready = found.into();
            self.from = next;
        }
    }
}
