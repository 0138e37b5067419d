//! A watch that opens its stream again, at another member if need be, from where it was.

use std::collections::VecDeque;
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::proto::PbEvent;
use etcd_client::{EventType, KeyValue, WatchOptions, WatchResponse, WatchStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tonic::Status;

use super::answers::{revision, signed, to_entry, to_key, to_revision, to_status};
use super::members::Members;
use crate::watch::WatchSource;
use crate::{Change, Changes, Revision, StoreError};

/// Longest wait for a member to open the stream.
const OPEN: Duration = Duration::from_secs(1);

/// Pause before a stream is opened again.
const PAUSE: Duration = Duration::from_millis(50);

/// How long the cluster may be out of reach before the watch gives up.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) struct EtcdWatch {
    members: Members,
    data: String,
    prefix: String,
    /// First revision not yet in `ready`.
    from: Revision,
    closed: watch::Receiver<bool>,
    stream: Option<Stream>,
    /// Read, not yet given out; at most one answer of etcd.
    ready: VecDeque<Changes>,
    lost: Option<Instant>,
}

struct Stream {
    at: usize,
    answers: WatchStream,
    moves: watch::Receiver<usize>,
    /// Changes of a transaction of which more may come: etcd cuts large answers.
    partial: Option<Changes>,
}

impl EtcdWatch {
    pub(super) fn new(
        members: Members,
        data: String,
        prefix: String,
        from: Revision,
        closed: watch::Receiver<bool>,
    ) -> Self {
        Self {
            members,
            data,
            prefix,
            from,
            closed,
            stream: None,
            ready: VecDeque::new(),
            lost: None,
        }
    }

    /// Takes one answer of etcd. Loses nothing when dropped while waiting.
    async fn step(&mut self) -> Result<(), StoreError> {
        let Some(stream) = &mut self.stream else {
            match self.open().await {
                Ok(stream) => self.stream = Some(stream),
                Err((at, status)) => self.lose(at, &status).await?,
            }
            return Ok(());
        };
        let at = stream.at;
        let answer = tokio::select! {
            // The member failed others: it may not even say that it is gone.
            _ = stream.moves.wait_for(|preferred| *preferred != at) => None,
            answer = stream.answers.message() => Some(answer),
        };
        let Some(answer) = answer else {
            self.stream = None;
            return Ok(());
        };
        match answer {
            Ok(Some(answer)) if answer.canceled() => self.cancelled(at, &answer).await,
            Ok(Some(answer)) => self.take(answer),
            Ok(None) => {
                self.lose(at, &Status::unavailable("etcd ended the watch"))
                    .await
            }
            Err(error) => self.lose(at, &to_status(error)).await,
        }
    }

    /// The stream begins one revision early, with what is then passed over: what etcd keeps of the
    /// very revision to which it was compacted lacks deletes in some versions.
    async fn open(&self) -> Result<Stream, (usize, Status)> {
        let moves = self.members.moves();
        let (at, link) = self.members.current();
        let key = format!("{}{}", self.data, self.prefix);
        let options = WatchOptions::new()
            .with_range(format!("{key}\u{7f}"))
            .with_start_revision(signed(self.from.0.saturating_sub(1).max(1)))
            .with_progress_notify()
            .with_fragment();
        let opened = async {
            link.log_in().await?;
            let opened = link.watch().watch(key, Some(options)).await;
            opened.map_err(to_status)
        };
        let answers = timeout(OPEN, opened)
            .await
            .map_err(|_| (at, Status::deadline_exceeded("the watch was not opened")))?
            .map_err(|status| (at, status))?;
        Ok(Stream {
            at,
            answers,
            moves,
            partial: None,
        })
    }

    fn take(&mut self, answer: WatchResponse) -> Result<(), StoreError> {
        self.lost = None;
        let at = revision(answer.header());
        let answer = answer.0;
        // Of all changes up to this revision, none is still to come.
        let progress = answer.events.is_empty() && !answer.created && !answer.fragment;
        for event in answer.events {
            self.add(event)?;
        }
        if !answer.fragment {
            self.flush();
        }
        if progress {
            self.from = self.from.max(at.next());
        }
        Ok(())
    }

    fn add(&mut self, event: PbEvent) -> Result<(), StoreError> {
        let kind = event.r#type();
        let Some(kv) = event.kv else { return Ok(()) };
        let revision = to_revision(kv.mod_revision);
        if revision < self.from {
            return Ok(());
        }
        let change = match kind {
            EventType::Put => Change::Put(to_entry(&self.data, KeyValue(kv))?),
            EventType::Delete => Change::Delete {
                key: to_key(&self.data, kv.key)?,
            },
        };
        let partial = self
            .stream
            .as_mut()
            .and_then(|stream| stream.partial.as_mut());
        match partial {
            Some(partial) if partial.revision == revision => partial.changes.push(change),
            _ => {
                self.flush();
                if let Some(stream) = &mut self.stream {
                    stream.partial = Some(Changes {
                        revision,
                        changes: vec![change],
                    });
                }
            }
        }
        Ok(())
    }

    /// The transaction is whole.
    fn flush(&mut self) {
        if let Some(changes) = self.stream.as_mut().and_then(|s| s.partial.take()) {
            self.from = changes.revision.next();
            self.ready.push_back(changes);
        }
    }

    async fn cancelled(&mut self, at: usize, answer: &WatchResponse) -> Result<(), StoreError> {
        match to_revision(answer.compact_revision()) {
            Revision(0) => {
                let reason = Status::unavailable(answer.cancel_reason());
                self.lose(at, &reason).await
            }
            compacted => Err(StoreError::Compacted {
                oldest: compacted.next(),
            }),
        }
    }

    /// The stream is gone.
    async fn lose(&mut self, at: usize, status: &Status) -> Result<(), StoreError> {
        self.stream = None;
        self.members.leave(at, status);
        let since = *self.lost.get_or_insert_with(Instant::now);
        if since.elapsed() > PATIENCE {
            return Err(StoreError::Unreachable(status.message().to_owned()));
        }
        sleep(PAUSE).await;
        Ok(())
    }
}

#[async_trait]
impl WatchSource for EtcdWatch {
    async fn next(&mut self) -> Result<Changes, StoreError> {
        let mut closed = self.closed.clone();
        loop {
            if let Some(changes) = self.ready.pop_front() {
                return Ok(changes);
            }
            tokio::select! {
                biased;
                _ = closed.wait_for(|closed| *closed) => return Err(StoreError::Closed),
                step = self.step() => step?,
            }
        }
    }
}
