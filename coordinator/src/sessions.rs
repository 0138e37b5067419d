//! A worker's session: one task per stream, from its registration to its end.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use espalier_auth::Verb;
use espalier_proto::v1::session_request::Message;
use espalier_proto::v1::{Ack, Register, SessionRequest, SessionResponse, session_response};
use espalier_store::Leader;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;

use crate::api::WorkersError;
use crate::auth::Admitted;
use crate::clock::{Clock, wall};
use crate::control::{Handle, Link, Outgoing};
use crate::error::Error;
use crate::reports::Reports;
use crate::worker::WorkerRecord;

/// Messages that wait to be sent to a worker.
pub(crate) const OUTGOING: usize = 256;

/// Reports of a worker that wait to be stored; beyond that the stream is not read.
const INCOMING: usize = 256;

/// Most reports stored in one transaction.
const BATCH: usize = 64;

/// Longest wait for the first message.
const FIRST_MESSAGE: Duration = Duration::from_secs(10);

/// Longest wait for room to say why a session ends.
const LAST_WORD: Duration = Duration::from_secs(1);

/// What sessions share.
#[derive(Clone)]
pub(crate) struct Sessions {
    pub(crate) leader: Leader,
    pub(crate) control: Handle,
    pub(crate) clock: Clock,
    pub(crate) stop: CancellationToken,
}

impl Sessions {
    /// Serves a session to its end, and says down the stream why it ended.
    pub(crate) async fn serve(
        self,
        inbound: Streaming<SessionRequest>,
        admitted: Admitted,
        outgoing: Outgoing,
    ) {
        let ended = tokio::select! {
            ended = self.session(inbound, &admitted, &outgoing) => match ended {
                Err(WorkersError::Inner(Error::Stopping)) => Err(self.why_it_ends().await),
                other => other,
            },
            () = self.stop.cancelled() => Err(self.why_it_ends().await),
        };
        if let Err(error) = ended {
            let _ = tokio::time::timeout(LAST_WORD, outgoing.send(Err(error.into()))).await;
        }
    }

    /// The term is over, or the coordinator is stopping.
    async fn why_it_ends(&self) -> WorkersError {
        match tokio::time::timeout(LAST_WORD, self.leader.check()).await {
            Ok(Err(error)) => Error::from(error).into(),
            Ok(Ok(())) | Err(_) => WorkersError::Stopping,
        }
    }

    async fn session(
        &self,
        mut inbound: Streaming<SessionRequest>,
        admitted: &Admitted,
        outgoing: &Outgoing,
    ) -> Result<(), WorkersError> {
        let register = first(&mut inbound).await?;
        let record =
            WorkerRecord::from_register(&register, wall()).map_err(WorkersError::Arguments)?;
        // From here on the session is this worker's: no later message names one.
        admitted.check(Verb::Worker, &record.worker_id).await?;
        let (worker, incarnation) = (record.worker_id.clone(), record.incarnation.clone());
        let heard = Arc::new(AtomicU64::new(self.clock.now().0));
        let cut = CancellationToken::new();
        let link = Link::new(outgoing.clone(), heard.clone(), cut.clone());
        let number = self
            .control
            .register(record, register.running, link)
            .await?;
        let ended = async {
            let (leader, control) = (self.leader.clone(), self.control.clone());
            let reports = Reports::open(leader, control, worker.clone(), incarnation).await?;
            let (sender, receiver) = mpsc::channel(INCOMING);
            tokio::select! {
                () = cut.cancelled() => Ok(()),
                read = self.read(&worker, inbound, &heard, sender) => read,
                stored = store(reports, receiver, outgoing) => stored,
            }
        }
        .await;
        self.control.closed(worker, number).await;
        ended
    }

    /// Every message is a sign of life; all but heartbeats go on to be stored.
    async fn read(
        &self,
        worker: &str,
        mut inbound: Streaming<SessionRequest>,
        heard: &AtomicU64,
        reports: mpsc::Sender<Message>,
    ) -> Result<(), WorkersError> {
        while let Some(request) = inbound.message().await.map_err(WorkersError::Stream)? {
            heard.store(self.clock.now().0, Ordering::Relaxed);
            match request.message {
                None => return Err(WorkersError::argument("message", "is not set")),
                Some(Message::Register(_)) => {
                    return Err(WorkersError::argument(
                        "register",
                        "comes once, as the first message",
                    ));
                }
                Some(Message::Heartbeat(beat)) => self.control.progress(worker, beat.ranks),
                Some(report) => {
                    if reports.send(report).await.is_err() {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }
}

async fn first(inbound: &mut Streaming<SessionRequest>) -> Result<Register, WorkersError> {
    let message = tokio::time::timeout(FIRST_MESSAGE, inbound.message())
        .await
        .map_err(|_| WorkersError::argument("register", "did not come within 10 s"))?
        .map_err(WorkersError::Stream)?;
    match message.and_then(|request| request.message) {
        Some(Message::Register(register)) => Ok(register),
        _ => Err(WorkersError::argument(
            "register",
            "must be the first message of a session",
        )),
    }
}

/// Stores reports in batches as large as have come, and acknowledges each batch.
async fn store(
    mut reports: Reports,
    mut incoming: mpsc::Receiver<Message>,
    outgoing: &Outgoing,
) -> Result<(), WorkersError> {
    let mut batch = Vec::with_capacity(BATCH);
    while incoming.recv_many(&mut batch, BATCH).await > 0 {
        if let Some(sequence) = reports.take(std::mem::take(&mut batch)).await? {
            let ack = SessionResponse {
                message: Some(session_response::Message::Ack(Ack { sequence })),
            };
            if outgoing.send(Ok(ack)).await.is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}
