//! The members of the cluster. Calls go to one of them until it fails one; then to the next.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, Status};

use super::EtcdOptions;
use super::answers::{to_status, with_causes};
use super::link::Link;
use crate::StoreError;

/// Longest wait for one member's answer; a leader of etcd that is lost takes about as long to replace.
const ATTEMPT: Duration = Duration::from_secs(1);

/// First pause before another attempt; it doubles with each.
const PAUSE: Duration = Duration::from_millis(10);

/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// What etcd says to a token that it does not know, or no longer; to a watch only that it may not.
const STALE_TOKENS: [&str; 4] = [
    "invalid auth token",
    "revision of auth store is old",
    "revision in header is old",
    "permission denied",
];

/// Clones share the connections.
#[derive(Clone)]
pub(super) struct Members(Arc<Inner>);

struct Inner {
    links: Vec<Link>,
    /// Which one is called; watches move with it.
    preferred: watch::Sender<usize>,
    deadline: Duration,
}

/// Why a call was given up.
#[derive(Debug)]
pub(super) struct Failure {
    /// What the last member said.
    pub(super) status: Status,
    /// How often it was tried.
    pub(super) attempts: u32,
    member: String,
}

impl Failure {
    /// Of a call that changes nothing, or may be made twice.
    pub(super) fn nothing_done(&self) -> StoreError {
        match self.status.code() {
            _ if is_lost(&self.status) => StoreError::Unreachable(self.to_string()),
            Code::Unauthenticated | Code::PermissionDenied | Code::InvalidArgument => {
                StoreError::Invalid(format!("etcd refused: {self}"))
            }
            _ => StoreError::Backend(Arc::from(Box::from(self.to_string()))),
        }
    }

    /// Of a call that may have been made.
    pub(super) fn unknown(&self) -> StoreError {
        if is_lost(&self.status) {
            StoreError::Unknown(self.to_string())
        } else {
            self.nothing_done()
        }
    }

    pub(super) fn is_lease_not_found(&self) -> bool {
        self.status.code() == Code::NotFound && self.status.message().contains("lease")
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            status,
            attempts,
            member,
        } = self;
        write!(f, "{} ({member}, attempt {attempts}", status.message())?;
        match std::error::Error::source(status) {
            Some(cause) => write!(f, ": {})", with_causes(cause)),
            None => f.write_str(")"),
        }
    }
}

/// The member did not answer, or said that the cluster could not: another try may do.
fn is_lost(status: &Status) -> bool {
    match status.code() {
        Code::Unavailable
        | Code::DeadlineExceeded
        | Code::Cancelled
        | Code::Unknown
        | Code::Internal => true,
        Code::ResourceExhausted => status.message().contains("too many requests"),
        _ => false,
    }
}

fn is_stale_token(status: &Status) -> bool {
    STALE_TOKENS
        .iter()
        .any(|text| status.message().contains(text))
}

impl Members {
    pub(super) async fn new(options: &EtcdOptions) -> Result<Self, StoreError> {
        let mut links = Vec::with_capacity(options.endpoints.len());
        for endpoint in &options.endpoints {
            links.push(Link::new(endpoint, options).await?);
        }
        Ok(Self(Arc::new(Inner {
            links,
            preferred: watch::Sender::new(0),
            deadline: options.deadline,
        })))
    }

    /// Calls until a member answers, at most for the deadline. The call is told the number of the
    /// attempt, from 1; what it asks for may be done by each of them.
    pub(super) async fn call<T, F>(
        &self,
        call: impl Fn(&Link, u32) -> F + Send + Sync,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, etcd_client::Error>> + Send,
    {
        let give_up = Instant::now() + self.0.deadline;
        let (mut attempts, mut pause, mut renewed) = (0, PAUSE, None);
        loop {
            attempts += 1;
            let at = self.preferred();
            let left = give_up.saturating_duration_since(Instant::now());
            let status = match self
                .attempt(at, |link| call(link, attempts), left.min(ATTEMPT))
                .await
            {
                Ok(answer) => return Ok(answer),
                Err(status) => status,
            };
            // Each member has given us a token of its own.
            if is_stale_token(&status) && renewed != Some(at) {
                renewed = Some(at);
                self.0.links[at].forget_token();
                continue;
            }
            if is_lost(&status) {
                self.leave(at, &status);
                if Instant::now() + pause < give_up {
                    sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    continue;
                }
            }
            return Err(Failure {
                status,
                attempts,
                member: self.0.links[at].endpoint.clone(),
            });
        }
    }

    async fn attempt<T, F>(
        &self,
        at: usize,
        call: impl FnOnce(&Link) -> F + Send,
        limit: Duration,
    ) -> Result<T, Status>
    where
        F: Future<Output = Result<T, etcd_client::Error>> + Send,
    {
        let link = &self.0.links[at];
        let answered = async {
            link.log_in().await?;
            call(link).await.map_err(to_status)
        };
        match timeout(limit, answered).await {
            Ok(answer) => answer,
            Err(_) => Err(Status::deadline_exceeded(format!(
                "no answer within {} ms",
                limit.as_millis()
            ))),
        }
    }

    /// Where streams go.
    pub(super) fn current(&self) -> (usize, &Link) {
        let at = self.preferred();
        (at, &self.0.links[at])
    }

    /// Tells of each change of the member that is called.
    pub(super) fn moves(&self) -> watch::Receiver<usize> {
        self.0.preferred.subscribe()
    }

    /// Goes on to the next member, unless somebody already has, or all that this one wants is another
    /// token.
    pub(super) fn leave(&self, at: usize, status: &Status) {
        if is_stale_token(status) {
            self.0.links[at].forget_token();
            return;
        }
        let next = (at + 1) % self.0.links.len();
        let moved = self.0.preferred.send_if_modified(|preferred| {
            let moves = *preferred == at && next != at;
            if moves {
                *preferred = next;
            }
            moves
        });
        if moved {
            let (from, to) = (&self.0.links[at].endpoint, &self.0.links[next].endpoint);
            tracing::info!(from, to, reason = status.message(), "etcd member changed");
        }
    }

    fn preferred(&self) -> usize {
        *self.0.preferred.borrow()
    }
}
