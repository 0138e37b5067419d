//! What upstream said of checkpoints: asked again when it is no longer fresh, answered as of then when
//! upstream is away.

use std::cmp::Reverse;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use espalier_proto::v1::{
    Checkpoint, GetCheckpointRequest, GetCheckpointResponse, ListCheckpointsRequest,
    ListCheckpointsResponse,
};
use espalier_store::{Entry, Leader, Op, Range, Store, Txn};
use prost::Message;
use tonic::{Code, Status};

use super::chunks::Chunks;
use super::lru::Lru;
use super::upstream::{ASK, Upstream};
use crate::service::Reference;
use crate::{ChunkId, Clock, Digest, Kind, Manifest, RegistryError};

/// Bytes of answers that are kept.
const KEPT: u64 = 256 << 20;

/// Answers that are read at once: each may hold a manifest of 1 MiB.
const PAGE: usize = 16;

/// Most checkpoints of a list that is made of what is known.
const LISTED: usize = 500;

/// Prefix of all answers.
const ANSWERS: &str = "mirror/";

/// Prefix of what checkpoints are.
const CHECKPOINTS: &str = "mirror/checkpoints/";

/// [`Seen`].
fn checkpoint_key(digest: Digest) -> String {
    format!("{CHECKPOINTS}{digest}")
}

/// [`Pointed`].
fn alias_key(name: &str, alias: &str) -> String {
    format!("mirror/aliases/{name}/{alias}")
}

/// What upstream said of a checkpoint.
#[derive(Clone, PartialEq, Message)]
struct Seen {
    #[prost(message, optional, tag = "1")]
    answer: Option<GetCheckpointResponse>,
    /// Milliseconds since 1970.
    #[prost(int64, tag = "2")]
    at_ms: i64,
}

/// Where an alias pointed.
#[derive(Clone, PartialEq, Message)]
struct Pointed {
    #[prost(string, tag = "1")]
    digest: String,
    /// Milliseconds since 1970.
    #[prost(int64, tag = "2")]
    at_ms: i64,
}

/// What is known of upstream's checkpoints.
pub(super) struct Names {
    leader: Leader,
    upstream: Arc<Upstream>,
    clock: Arc<dyn Clock>,
    /// Time for which an answer is given again without asking.
    fresh: Duration,
    /// Keys of the answers in the store.
    used: Mutex<Lru<String>>,
}

impl Names {
    pub(super) async fn open(
        leader: Leader,
        upstream: Arc<Upstream>,
        clock: Arc<dyn Clock>,
        fresh: Duration,
    ) -> Result<Self, RegistryError> {
        let mut used = Lru::default();
        each(leader.store(), ANSWERS, |entry| {
            used.insert(entry.key, entry.value.len() as u64);
            Ok(())
        })
        .await?;
        Ok(Self {
            leader,
            upstream,
            clock,
            fresh,
            used: Mutex::new(used),
        })
    }

    /// The checkpoint that a reference means.
    pub(super) async fn get(
        &self,
        request: GetCheckpointRequest,
        chunks: &Chunks,
    ) -> Result<GetCheckpointResponse, RegistryError> {
        let reference = Reference::parse(&request.reference)?;
        let seen = self.seen(&reference).await?;
        if let Some((answer, at_ms)) = &seen
            && is_fresh(self.clock.wall_ms(), *at_ms, self.fresh)
            && (request.lease.is_empty() || self.all_here(answer, chunks).await?)
        {
            return Ok(answer.clone());
        }
        let asked = self
            .upstream
            .ask(ASK, request.clone(), |mut rpc, request| async move {
                rpc.get_checkpoint(request).await
            })
            .await;
        match (asked, seen) {
            (Ok(answer), _) => {
                self.remember(&reference, &answer).await?;
                // A checkpoint that is about to be pulled is not what goes next.
                if !request.lease.is_empty() {
                    chunks.touch(&chunks_of(&answer)?);
                }
                Ok(answer)
            }
            (Err(RegistryError::Away { problem }), Some((answer, at_ms))) => {
                let stale_s = age_s(self.clock.wall_ms(), at_ms);
                tracing::warn!(
                    reference = request.reference,
                    stale_s,
                    problem,
                    "upstream is away: answered as of when it was last asked"
                );
                Ok(GetCheckpointResponse { stale_s, ..answer })
            }
            (Err(error), _) => {
                if let RegistryError::Upstream(status) = &error
                    && status.code() == Code::NotFound
                {
                    self.forget(&reference).await?;
                }
                Err(error)
            }
        }
    }

    /// A page of upstream's checkpoints; those that are known when upstream is away.
    pub(super) async fn list(
        &self,
        request: ListCheckpointsRequest,
    ) -> Result<ListCheckpointsResponse, RegistryError> {
        let asked = self
            .upstream
            .ask(ASK, request.clone(), |mut rpc, request| async move {
                rpc.list_checkpoints(request).await
            })
            .await;
        match asked {
            Err(RegistryError::Away { problem })
                if request.filter.is_empty() && request.page_token.is_empty() =>
            {
                tracing::warn!(problem, "upstream is away: what is known of it is listed");
                self.known(&request).await
            }
            other => other,
        }
    }

    async fn known(
        &self,
        request: &ListCheckpointsRequest,
    ) -> Result<ListCheckpointsResponse, RegistryError> {
        let mut known: Vec<(Checkpoint, i64)> = Vec::new();
        each(self.leader.store(), CHECKPOINTS, |entry| {
            let seen: Seen = decode(&entry)?;
            let checkpoint = seen.answer.and_then(|answer| answer.checkpoint);
            let is_asked_for = |c: &Checkpoint| {
                (request.name.is_empty() || c.name == request.name)
                    && (request.include_training || c.kind == Kind::Model.as_str())
            };
            let checkpoint = checkpoint.filter(is_asked_for);
            known.extend(checkpoint.map(|checkpoint| (checkpoint, seen.at_ms)));
            Ok(())
        })
        .await?;
        let made = |c: &Checkpoint| c.create_time.map(|time| (time.seconds, time.nanos));
        known.sort_by_key(|(checkpoint, _)| Reverse(made(checkpoint)));
        known.truncate(LISTED);
        let oldest = known.iter().map(|(_, at_ms)| *at_ms).min();
        let now_ms = self.clock.wall_ms();
        Ok(ListCheckpointsResponse {
            stale_s: age_s(now_ms, oldest.unwrap_or(now_ms)),
            checkpoints: known
                .into_iter()
                .map(|(checkpoint, _)| checkpoint)
                .collect(),
            next_page_token: String::new(),
        })
    }

    /// What is known of a reference, and since when.
    async fn seen(
        &self,
        reference: &Reference,
    ) -> Result<Option<(GetCheckpointResponse, i64)>, RegistryError> {
        let (digest, pointed_ms) = match reference {
            Reference::Digest { digest, .. } => (*digest, None),
            Reference::Alias { name, alias } => {
                let key = alias_key(name, alias);
                let Some(pointed) = self.read::<Pointed>(&key).await? else {
                    return Ok(None);
                };
                (parse(&key, &pointed.digest)?, Some(pointed.at_ms))
            }
        };
        let Some(seen) = self.read::<Seen>(&checkpoint_key(digest)).await? else {
            return Ok(None);
        };
        let at_ms = pointed_ms.unwrap_or(seen.at_ms);
        let answer = seen.answer.unwrap_or_default();
        let name = &answer.checkpoint.as_ref().map(|c| c.name.as_str());
        let is_named = match reference {
            Reference::Digest { name: asked, .. } => {
                asked.as_deref().is_none_or(|n| *name == Some(n))
            }
            Reference::Alias { .. } => true,
        };
        Ok(is_named.then_some((answer, at_ms)))
    }

    async fn read<T: Message + Default>(&self, key: &str) -> Result<Option<T>, RegistryError> {
        self.used().touch(&key.to_owned());
        let entry = self.leader.store().get(key).await?;
        entry.as_ref().map(decode).transpose()
    }

    /// Keeps an answer, verified.
    async fn remember(
        &self,
        reference: &Reference,
        answer: &GetCheckpointResponse,
    ) -> Result<(), RegistryError> {
        let digest = verified(reference, answer)
            .map_err(|problem| RegistryError::Upstream(Box::new(Status::data_loss(problem))))?;
        let at_ms = self.clock.wall_ms();
        let seen = Seen {
            answer: Some(answer.clone()),
            at_ms,
        };
        let mut values = vec![(checkpoint_key(digest), seen.encode_to_vec())];
        if let Reference::Alias { name, alias } = reference {
            let digest = digest.to_string();
            let pointed = Pointed { digest, at_ms };
            values.push((alias_key(name, alias), pointed.encode_to_vec()));
        }
        let mut txn = Txn::new();
        {
            let mut used = self.used();
            for (key, value) in &values {
                used.insert(key.clone(), value.len() as u64);
            }
            txn.ops
                .extend(used.shrink(KEPT).into_iter().map(Op::delete));
        }
        let kept = |key: &str| !txn.ops.iter().any(|op| op.key() == key);
        values.retain(|(key, _)| kept(key));
        let puts = values.into_iter().map(|(key, value)| Op::put(key, value));
        txn.ops.extend(puts);
        self.leader.commit(txn).await?;
        Ok(())
    }

    /// Upstream no longer has it.
    async fn forget(&self, reference: &Reference) -> Result<(), RegistryError> {
        let key = match reference {
            Reference::Digest { digest, .. } => checkpoint_key(*digest),
            Reference::Alias { name, alias } => alias_key(name, alias),
        };
        self.used().remove(&key);
        self.leader.commit(Txn::new().then(Op::delete(key))).await?;
        Ok(())
    }

    async fn all_here(
        &self,
        answer: &GetCheckpointResponse,
        chunks: &Chunks,
    ) -> Result<bool, RegistryError> {
        let ids = chunks_of(answer)?;
        chunks.touch(&ids);
        Ok(chunks.blobs().missing(&ids).await?.is_empty())
    }

    fn used(&self) -> MutexGuard<'_, Lru<String>> {
        // A panic between two of its changes could at worst miscount what is kept.
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether what was said then may be given without asking. A clock that was set back makes nothing fresh.
fn is_fresh(now_ms: i64, at_ms: i64, fresh: Duration) -> bool {
    let age = u128::try_from(now_ms.saturating_sub(at_ms));
    age.is_ok_and(|age| age < fresh.as_millis())
}

/// Seconds since, at least 1.
fn age_s(now_ms: i64, at_ms: i64) -> u64 {
    let age = u64::try_from(now_ms.saturating_sub(at_ms)).unwrap_or(0);
    age.div_ceil(1000).max(1)
}

fn chunks_of(answer: &GetCheckpointResponse) -> Result<Vec<ChunkId>, RegistryError> {
    Ok(Manifest::parse(&answer.manifest)?.chunks())
}

/// The digest of an answer's manifest, which is what was asked for.
fn verified(reference: &Reference, answer: &GetCheckpointResponse) -> Result<Digest, String> {
    let digest = Digest::of(&answer.manifest);
    let manifest =
        Manifest::parse(&answer.manifest).map_err(|e| format!("upstream's manifest: {e}"))?;
    let said = answer.checkpoint.as_ref().map(|c| c.digest.as_str());
    let (name, asked) = match reference {
        Reference::Alias { name, .. } => (Some(name), None),
        Reference::Digest { name, digest } => (name.as_ref(), Some(*digest)),
    };
    let is_it = said == Some(digest.to_string().as_str())
        && asked.is_none_or(|asked| asked == digest)
        && name.is_none_or(|name| *name == manifest.name);
    if !is_it {
        return Err(format!("upstream answered with another manifest, {digest}"));
    }
    Ok(digest)
}

fn parse(key: &str, digest: &str) -> Result<Digest, RegistryError> {
    digest.parse().map_err(|e| damaged(key, e))
}

fn decode<T: Message + Default>(entry: &Entry) -> Result<T, RegistryError> {
    T::decode(entry.value.as_slice()).map_err(|e| damaged(&entry.key, e))
}

fn damaged(key: &str, problem: impl ToString) -> RegistryError {
    RegistryError::Record {
        key: key.to_owned(),
        problem: problem.to_string(),
    }
}

/// Every entry with a prefix, a few at a time.
async fn each(
    store: &Store,
    prefix: &str,
    mut f: impl FnMut(Entry) -> Result<(), RegistryError>,
) -> Result<(), RegistryError> {
    let mut after: Option<String> = None;
    loop {
        let mut range = Range::prefix(prefix).limit(PAGE);
        if let Some(after) = after {
            range = range.after(after);
        }
        let page = store.range(range).await?;
        after = page.entries.last().map(|entry| entry.key.clone());
        page.entries.into_iter().try_for_each(&mut f)?;
        if !page.more {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_fresh_for_its_time_and_never_from_the_future() {
        let fresh = Duration::from_secs(5);
        assert!(is_fresh(10_000, 10_000, fresh));
        assert!(is_fresh(14_999, 10_000, fresh));
        assert!(!is_fresh(15_000, 10_000, fresh));
        assert!(!is_fresh(9_999, 10_000, fresh));
        assert!(!is_fresh(10_000, 10_000, Duration::ZERO));
        assert_eq!([age_s(9, 10), age_s(10, 10), age_s(2010, 10)], [1, 1, 2]);
        assert_eq!(age_s(2011, 10), 3);
    }
}
