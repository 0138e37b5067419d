//! The store in an etcd cluster, which several processes share.
//!
//! Etcd's client for Rust needs protoc to build, goes on calling members that are dead, and lets
//! watches and keep-alives end with the connection. What is needed beside that is six calls; they are
//! in `proto/etcd.proto`, compiled as the other protos are.
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
mod wire;

use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use self::answers::{revision, signed, to_entry};
use self::members::Members;
use self::watch::EtcdWatch;
use self::wire::range_request::SortOrder;
use self::wire::{
    CompactionRequest, LeaseGrantRequest, LeaseKeepAliveRequest, LeaseRevokeRequest,
    LeaseTimeToLiveRequest, RangeRequest, RangeResponse,
};
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
            members: Members::new(&options)?,
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

    async fn read(&self, request: RangeRequest) -> Result<RangeResponse, StoreError> {
        self.open()?;
        self.members
            .call(|link, _| {
                let request = link.request(request.clone());
                async move { link.kv().range(request).await }
            })
            .await
            .map_err(|failure| failure.nothing_done())
    }

    /// Forgets the history of the store but for the last `keep` revisions. The values stay.
    async fn compact(&self, keep: u64) -> Result<(), StoreError> {
        let latest = self.read(probe(self.keys.data(""))).await?;
        let floor = revision(latest.header.as_ref()).0.saturating_sub(keep);
        if floor == 0 {
            return Ok(());
        }
        let request = CompactionRequest {
            revision: signed(floor),
        };
        let compacted = self
            .members
            .call(|link, _| {
                let request = link.request(request);
                async move { link.kv().compact(request).await }
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
        let request = LeaseTimeToLiveRequest {
            id: signed(lease.0),
        };
        let answer = self
            .members
            .call(|link, _| {
                let request = link.request(request);
                async move { link.lease().lease_time_to_live(request).await }
            })
            .await
            .map_err(|failure| failure.nothing_done())?;
        Ok(u64::try_from(answer.ttl).ok().map(Duration::from_secs))
    }

    /// A lease, and the time that etcd gave it.
    async fn grant_lease(&self, ttl: Duration) -> Result<(LeaseId, Duration), StoreError> {
        self.open()?;
        let request = LeaseGrantRequest {
            ttl: signed(ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0)),
        };
        // Asked twice it may give two leases, one of which ends unused.
        let answer = self
            .members
            .call(|link, _| {
                let request = link.request(request);
                async move { link.lease().lease_grant(request).await }
            })
            .await
            .map_err(|failure| failure.nothing_done())?;
        let ttl = Duration::from_secs(answer.ttl.unsigned_abs());
        Ok((LeaseId(answer.id.unsigned_abs()), ttl))
    }
}

/// Asks for the revision, and nothing else.
fn probe(key: Vec<u8>) -> RangeRequest {
    RangeRequest {
        key,
        count_only: true,
        ..RangeRequest::default()
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
        let request = RangeRequest {
            key: self.keys.data(&key),
            ..RangeRequest::default()
        };
        let found = self.read(request).await?.kvs.pop();
        found.map(|kv| to_entry(&self.keys.data, kv)).transpose()
    }

    async fn range(&self, range: Range) -> Result<Page, StoreError> {
        let (low, high) = bounds(&range);
        let empty = low >= high || range.limit == 0;
        let request = RangeRequest {
            key: self.keys.data(&low),
            range_end: self.keys.data(&high),
            limit: signed(range.limit.clamp(1, PAGE) as u64),
            sort_order: if range.reverse {
                SortOrder::Descend
            } else {
                SortOrder::None
            }
            .into(),
            count_only: empty,
        };
        let answer = self.read(request).await?;
        let entries: Result<Vec<Entry>, StoreError> = answer
            .kvs
            .into_iter()
            .map(|kv| to_entry(&self.keys.data, kv))
            .collect();
        Ok(Page {
            entries: entries?,
            revision: revision(answer.header.as_ref()),
            more: if empty {
                low < high && answer.count > 0
            } else {
                answer.more
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
        let request = LeaseKeepAliveRequest {
            id: signed(lease.0),
        };
        let answer = self
            .members
            .call(|link, _| {
                let request = link.request(tokio_stream::once(request));
                async move {
                    let answers = link.lease().lease_keep_alive(request).await?;
                    answers
                        .into_inner()
                        .message()
                        .await?
                        .map(tonic::Response::new)
                        .ok_or_else(|| tonic::Status::unavailable("etcd ended the stream"))
                }
            })
            .await
            .map_err(|failure| failure.nothing_done())?;
        if answer.ttl > 0 {
            Ok(())
        } else {
            Err(StoreError::LeaseNotFound(lease.0))
        }
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.open()?;
        let request = LeaseRevokeRequest {
            id: signed(lease.0),
        };
        let revoked = self
            .members
            .call(|link, _| {
                let request = link.request(request);
                async move { link.lease().lease_revoke(request).await }
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
