//! The session with the coordinator: one stream, opened again for as long as the agent runs.

use std::collections::BTreeSet;
use std::time::Duration;

use espalier_proto::v1::session_request::Message as Outgoing;
use espalier_proto::v1::session_response::Message as Incoming;
use espalier_proto::v1::worker_service_client::WorkerServiceClient;
use espalier_proto::v1::{Heartbeat, Register, RunningGang, SessionRequest, SessionResponse};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;
use tonic::transport::Channel;

use super::backoff;
use super::coordinators::Coordinators;
use super::key::GangKey;
use super::mailbox::Mailbox;
use super::outbox::Outbox;
use super::pulse::Pulse;

/// Messages on their way into the stream.
const OUTGOING: usize = 16;
/// Time for the coordinator to accept the stream and answer the registration.
const ANSWER_DEADLINE: Duration = Duration::from_secs(5);
/// A session that lasted this long was a good one: the next attempt comes without delay.
const GOOD: Duration = Duration::from_secs(5);
const DEFAULT_HEARTBEAT: Duration = Duration::from_secs(1);
const SHORTEST_HEARTBEAT: Duration = Duration::from_millis(10);

/// What the session hands to the supervisor, in the order it came.
#[derive(Debug)]
pub(crate) enum Order {
    /// Which gangs run, after everything handed over before?
    Running(oneshot::Sender<Vec<RunningGang>>),
    /// A message of the coordinator.
    Message(Incoming),
}

/// Why a session ended.
#[derive(Debug, Error)]
enum SessionError {
    #[error("cannot connect: {0}")]
    Connect(String),
    #[error("the coordinator refused the session: {0}")]
    Refused(tonic::Status),
    #[error("no answer to the registration within {} s", ANSWER_DEADLINE.as_secs())]
    NoAnswer,
    #[error("the first answer is not Registered")]
    NotRegistered,
    #[error("the stream failed: {0}")]
    Failed(tonic::Status),
    #[error("the coordinator ended the stream")]
    Ended,
    #[error("the agent is stopping")]
    Stopping,
}

impl SessionError {
    /// Where the leader listens, when that is why.
    fn leader(&self) -> Option<String> {
        match self {
            Self::Refused(status) | Self::Failed(status) => espalier_proto::not_leader(status)?,
            _ => None,
        }
    }
}

/// The session task.
pub(crate) struct Session {
    /// Those who may lead.
    pub(crate) coordinators: Coordinators,
    /// The registration, without the running gangs.
    pub(crate) register: Register,
    /// Reports to send.
    pub(crate) mailbox: Mailbox,
    /// What ranks last said of themselves.
    pub(crate) pulse: Pulse,
    /// The supervisor.
    pub(crate) orders: mpsc::Sender<Order>,
    /// Seed of the waiting times.
    pub(crate) seed: u64,
}

impl Session {
    /// Serves sessions until told to stop.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut attempt = 0;
        loop {
            let start = Instant::now();
            let asked = self.coordinators.current();
            let error = tokio::select! {
                () = stop.cancelled() => return,
                error = self.serve(&asked) => error,
            };
            self.coordinators.leave(&asked, error.leader().as_deref());
            attempt = if start.elapsed() >= GOOD {
                0
            } else {
                attempt + 1
            };
            let wait = backoff::delay(attempt, self.seed);
            tracing::warn!(reason = %error, retry_ms = wait.as_millis() as u64, "session lost");
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(wait) => {}
            }
        }
    }

    /// One session, from connecting to its end; tells why it ended.
    async fn serve(&self, coordinator: &str) -> SessionError {
        match self.open(coordinator).await {
            Ok((outgoing, incoming, heartbeat)) => {
                let reports = self.mailbox.subscribe();
                tokio::select! {
                    error = send(outgoing, reports, &self.pulse, heartbeat) => error,
                    error = self.receive(incoming) => error,
                }
            }
            Err(error) => error,
        }
    }

    async fn open(
        &self,
        coordinator: &str,
    ) -> Result<
        (
            mpsc::Sender<SessionRequest>,
            Streaming<SessionResponse>,
            Duration,
        ),
        SessionError,
    > {
        let target = self
            .coordinators
            .endpoint(coordinator)
            .map_err(|error| SessionError::Connect(with_causes(&error)))?;
        let channel = self
            .coordinators
            .dial(target)
            .await
            .map_err(|error| SessionError::Connect(with_causes(&error)))?;
        let register = Register {
            running: self.running().await?,
            ..self.register.clone()
        };
        let (outgoing, requests) = mpsc::channel(OUTGOING);
        outgoing
            .send(request(Outgoing::Register(register)))
            .await
            .map_err(|_| SessionError::Ended)?;
        let answer = self.register_on(channel, ReceiverStream::new(requests));
        let (incoming, heartbeat) = timeout(ANSWER_DEADLINE, answer)
            .await
            .map_err(|_| SessionError::NoAnswer)??;
        tracing::info!(heartbeat_ms = heartbeat.as_millis() as u64, "registered");
        Ok((outgoing, incoming, heartbeat))
    }

    async fn register_on(
        &self,
        channel: Channel,
        requests: ReceiverStream<SessionRequest>,
    ) -> Result<(Streaming<SessionResponse>, Duration), SessionError> {
        let mut client = WorkerServiceClient::new(channel)
            .max_decoding_message_size(espalier_proto::MAX_MESSAGE)
            .max_encoding_message_size(espalier_proto::MAX_MESSAGE);
        let requests = self
            .coordinators
            .request(requests)
            .map_err(|error| SessionError::Connect(error.to_string()))?;
        let mut incoming = client
            .session(requests)
            .await
            .map_err(SessionError::Refused)?
            .into_inner();
        match incoming.message().await.map_err(SessionError::Refused)? {
            Some(SessionResponse {
                message: Some(Incoming::Registered(registered)),
            }) => Ok((incoming, heartbeat(registered.heartbeat_interval_ms))),
            Some(_) => Err(SessionError::NotRegistered),
            None => Err(SessionError::Ended),
        }
    }

    /// The question goes through the same queue as the coordinator's messages, so the answer
    /// includes every start and revoke of the session before.
    async fn running(&self) -> Result<Vec<RunningGang>, SessionError> {
        let (sender, answer) = oneshot::channel();
        self.orders
            .send(Order::Running(sender))
            .await
            .map_err(|_| SessionError::Stopping)?;
        answer.await.map_err(|_| SessionError::Stopping)
    }

    async fn receive(&self, mut incoming: Streaming<SessionResponse>) -> SessionError {
        loop {
            let message = match incoming.message().await {
                Ok(Some(response)) => response.message,
                Ok(None) => return SessionError::Ended,
                Err(status) => return SessionError::Failed(status),
            };
            match message {
                Some(Incoming::Ack(ack)) => self
                    .mailbox
                    .update(|outbox| outbox.acknowledge(ack.sequence)),
                Some(other) => {
                    if self.orders.send(Order::Message(other)).await.is_err() {
                        return SessionError::Stopping;
                    }
                }
                None => tracing::warn!("passed over a message of an unknown kind"),
            }
        }
    }
}

/// Sends heartbeats and every report that is not acknowledged, in order.
async fn send(
    outgoing: mpsc::Sender<SessionRequest>,
    reports: watch::Receiver<Outbox>,
    pulse: &Pulse,
    heartbeat: Duration,
) -> SessionError {
    let mut ticks = interval(heartbeat);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut pending = Pending {
        reports,
        sent: 0,
        announced: BTreeSet::new(),
    };
    loop {
        let message = tokio::select! {
            biased;
            _ = ticks.tick() => Outgoing::Heartbeat(Heartbeat { ranks: pulse.ranks() }),
            message = pending.next() => match message {
                Some(message) => message,
                None => return SessionError::Stopping,
            },
        };
        if outgoing.send(request(message)).await.is_err() {
            return SessionError::Ended;
        }
    }
}

/// What this session has not sent yet.
struct Pending {
    reports: watch::Receiver<Outbox>,
    sent: u64,
    announced: BTreeSet<GangKey>,
}

impl Pending {
    /// The next message; `None` when the outbox is gone. Loses nothing when dropped while waiting.
    async fn next(&mut self) -> Option<Outgoing> {
        loop {
            if let Some(message) = self.take() {
                return Some(message);
            }
            self.reports.changed().await.ok()?;
        }
    }

    fn take(&mut self) -> Option<Outgoing> {
        let outbox = self.reports.borrow_and_update();
        self.announced
            .retain(|gang| outbox.announcements().any(|(open, _)| open == gang));
        let unsaid = outbox
            .announcements()
            .find(|(gang, _)| !self.announced.contains(gang));
        if let Some((gang, message)) = unsaid {
            self.announced.insert(gang.clone());
            return Some(message);
        }
        let (sequence, message) = outbox.next_after(self.sent)?;
        self.sent = sequence;
        Some(message)
    }
}

fn request(message: Outgoing) -> SessionRequest {
    SessionRequest {
        message: Some(message),
    }
}

fn heartbeat(asked_ms: u32) -> Duration {
    match asked_ms {
        0 => DEFAULT_HEARTBEAT,
        asked => Duration::from_millis(asked.into()).max(SHORTEST_HEARTBEAT),
    }
}

/// tonic's own text for a failed connection is only "transport error".
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}
