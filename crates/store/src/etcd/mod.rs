//! The store in an etcd cluster, which several processes share.
//!
//! It speaks through `etcd-client`, whose own choice among several endpoints goes on calling members
//! that are dead, and whose watches end with the connection. So there is a client for each member, and
//! which one is called, for how long, and from where a watch goes on is decided here.
//!
//! ```text
//! <prefix>data/<key>               the store's keys
//! <prefix>commits/<fence>/<slot>   marks of a leader's commits, gone with its lease
//! ```

mod answers;
mod campaign;
mod commit;
mod link;
mod members;
mod options;
mod slots;
mod watch;

use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::{GetOptions, GetResponse, SortOrder, SortTarget};
use tokio::time::Instant;

use self::answers::{revision, signed, to_entry};
use self::members::Members;
use self::watch::EtcdWatch;
use crate::backend::{Backend, Term};
use crate::{Entry, LeaseId, Limits, Outcome, Page, Range, Revision, StoreError, Txn, Watch};

pub use options::{EtcdOptions, EtcdTls, EtcdUser};
pub(crate) use slots::Slots;

/// Most entries asked for at once: of the largest values they fit into [`link::MAX_ANSWER`].
const PAGE: usize = 64;

/// Time between two compactions.
const COMPACT_EVERY: Duration = Duration::from_secs(60);

pub(crate) struct Etcd {
    members: Members,
    keys: Keys,
    options: EtcdOptions,
    /// When the leader last compacted.
    compacted: Mutex<Instant>,
    closed: tokio::sync::watch::Sender<bool>,
}

/// Where the store's keys lie in etcd.
#[derive(Clone, Debug)]
struct Keys {
    data: String,
    commits: String,
}

impl Keys {
    fn data(&self, key: &str) -> Vec<u8> {
        format!("{}{key}", self.data).into_bytes()
    }

    fn mark(&self, fence: Revision, slot: u64) -> Vec<u8> {
        format!("{}{fence}/{slot}", self.commits).into_bytes()
    }
}

impl Etcd {
    /// Connects, and asks for the revision, so that a wrong option shows at once.
    pub(crate) async fn connect(options: EtcdOptions) -> Result<Self, StoreError> {
        options.validate()?;
        let etcd = Self {
            members: Members::new(&options).await?,
            keys: Keys {
                data: format!("{}data/", options.prefix),
                commits: format!("{}commits/", options.prefix),
            },
            options,
            compacted: Mutex::new(Instant::now()),
            closed: tokio::sync::watch::Sender::new(false),
        };
        etcd.get(crate::leader::LEADER_KEY.to_owned()).await?;
        Ok(etcd)
    }

    fn open(&self) -> Result<(), StoreError> {
        if *self.closed.borrow() {
            return Err(StoreError::Closed);
        }
        Ok(())
    }

    async fn read(&self, key: Vec<u8>, options: GetOptions) -> Result<GetResponse, StoreError> {
        self.open()?;
        self.members
            .call(|link, _| {
                let mut kv = link.kv();
                let (key, options) = (key.clone(), options.clone());
                async move { kv.get(key, Some(options)).await }
            })
            .await
            .map_err(|failure| failure.nothing_done())
    }

    /// Forgets the history of the store but for the last `keep` revisions. The values stay.
    async fn compact(&self, keep: u64) -> Result<(), StoreError> {
        // Asks for the revision, and nothing else.
        let probe = GetOptions::new().with_count_only();
        let latest = self.read(self.keys.data(""), probe).await?;
        let floor = revision(latest.header()).0.saturating_sub(keep);
        if floor == 0 {
            return Ok(());
        }
        let compacted = self
            .members
            .call(|link, _| {
                let mut kv = link.kv();
                async move { kv.compact(signed(floor), None).await }
            })
            .await;
        match compacted {
            Ok(_) => Ok(()),
            // Somebody else has compacted further.
            Err(failure) if failure.status.code() == tonic::Code::OutOfRange => Ok(()),
            Err(failure) => Err(failure.nothing_done()),
        }
    }

    /// Compacts when it is time. That it failed is no reason not to lead.
    async fn compact_at_times(&self) {
        let due = {
            let mut last = self
                .compacted
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            let due = self.options.history > 0 && last.elapsed() >= COMPACT_EVERY;
            if due {
                *last = Instant::now();
            }
            due
        };
        if due && let Err(error) = self.compact(self.options.history).await {
            tracing::warn!(%error, "etcd's history could not be compacted");
        }
    }

    /// Time that a lease has left; `None` when there is no such lease.
    async fn time_to_live(&self, lease: LeaseId) -> Result<Option<Duration>, StoreError> {
        let answer = self
            .members
            .call(|link, _| {
                let mut leases = link.lease();
                async move { leases.time_to_live(signed(lease.0), None).await }
            })
            .await
            .map_err(|failure| failure.nothing_done())?;
        Ok(u64::try_from(answer.ttl()).ok().map(Duration::from_secs))
    }

    /// A lease, and the time that etcd gave it.
    async fn grant_lease(&self, ttl: Duration) -> Result<(LeaseId, Duration), StoreError> {
        self.open()?;
        let seconds = signed(ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0));
        // Asked twice it may give two leases, one of which ends unused.
        let answer = self
            .members
            .call(|link, _| {
                let mut leases = link.lease();
                async move { leases.grant(seconds, None).await }
            })
            .await
            .map_err(|failure| failure.nothing_done())?;
        let ttl = Duration::from_secs(answer.ttl().unsigned_abs());
        Ok((LeaseId(answer.id().unsigned_abs()), ttl))
    }
}

#[async_trait]
impl Backend for Etcd {
    /// The fence, the commit's mark and the question for it take one each; and a few bytes belong to
    /// neither keys nor values.
    fn limits(&self) -> Limits {
        let ops = self.options.max_txn_ops - 3;
        Limits {
            ops,
            bytes: self.options.max_request_bytes - commit::overhead(&self.options.prefix, ops),
        }
    }

    async fn get(&self, key: String) -> Result<Option<Entry>, StoreError> {
        let mut answer = self.read(self.keys.data(&key), GetOptions::new()).await?;
        let found = answer.take_kvs().pop();
        found.map(|kv| to_entry(&self.keys.data, kv)).transpose()
    }

    async fn range(&self, range: Range) -> Result<Page, StoreError> {
        let (low, high) = bounds(&range);
        let empty = low >= high || range.limit == 0;
        let mut options = GetOptions::new()
            .with_range(self.keys.data(&high))
            .with_limit(signed(range.limit.clamp(1, PAGE) as u64));
        if range.reverse {
            options = options.with_sort(SortTarget::Key, SortOrder::Descend);
        }
        if empty {
            options = options.with_count_only();
        }
        let mut answer = self.read(self.keys.data(&low), options).await?;
        let entries: Result<Vec<Entry>, StoreError> = answer
            .take_kvs()
            .into_iter()
            .map(|kv| to_entry(&self.keys.data, kv))
            .collect();
        Ok(Page {
            entries: entries?,
            revision: revision(answer.header()),
            more: if empty {
                low < high && answer.count() > 0
            } else {
                answer.more()
            },
        })
    }

    fn watch(&self, prefix: String, from: Revision) -> Watch {
        Watch::new(EtcdWatch::new(
            self.members.clone(),
            self.keys.data.clone(),
            prefix,
            from,
            self.closed.subscribe(),
        ))
    }

    async fn campaign(&self, id: &str) -> Result<Term, StoreError> {
        let mut closed = self.closed.subscribe();
        tokio::select! {
            won = self.win(id) => won,
            _ = closed.wait_for(|closed| *closed) => Err(StoreError::Closed),
        }
    }

    async fn commit(&self, term: &Term, txn: Txn) -> Result<Outcome, StoreError> {
        self.open()?;
        self.settle(term, txn).await
    }

    async fn renew(&self, term: &Term) -> Result<(), StoreError> {
        if let Some((_, lease)) = term.lease {
            self.keep_alive(lease).await?;
        }
        self.compact_at_times().await;
        Ok(())
    }

    async fn resign(&self, term: &Term) -> Result<(), StoreError> {
        match term.lease {
            Some((_, lease)) => match self.revoke(lease).await {
                // It has ended by itself.
                Err(StoreError::LeaseNotFound(_)) => Ok(()),
                other => other,
            },
            None => Ok(()),
        }
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.grant_lease(ttl).await.map(|(lease, _)| lease)
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.open()?;
        // Returns with the answer to the first request; the stream ends with it.
        let kept = self
            .members
            .call(|link, _| {
                let mut leases = link.lease();
                async move { leases.keep_alive(signed(lease.0)).await }
            })
            .await;
        match kept {
            Ok(_) => Ok(()),
            Err(failure) if failure.is_lease_not_found() => Err(StoreError::LeaseNotFound(lease.0)),
            Err(failure) => Err(failure.nothing_done()),
        }
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.open()?;
        let revoked = self
            .members
            .call(|link, _| {
                let mut leases = link.lease();
                async move { leases.revoke(signed(lease.0)).await }
            })
            .await;
        match revoked {
            Ok(_) => Ok(()),
            Err(failure) if failure.is_lease_not_found() => {
                // An earlier attempt whose answer was lost may be what ended it.
                if failure.attempts > 1 {
                    return Ok(());
                }
                Err(StoreError::LeaseNotFound(lease.0))
            }
            Err(failure) => Err(failure.unknown()),
        }
    }

    async fn close(&self) {
        self.closed.send_replace(true);
    }
}

/// Lowest key, and a bound above the highest, of a range.
fn bounds(range: &Range) -> (String, String) {
    let (mut low, mut high) = (range.prefix.clone(), range.end());
    if let Some(after) = &range.after {
        if range.reverse {
            high = high.min(after.clone());
        } else {
            // No key is between one and the same with the lowest byte appended.
            low = low.max(format!("{after}\0"));
        }
    }
    (low, high)
}

#[cfg(test)]
mod tests;
