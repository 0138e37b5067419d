use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use espalier_job::Job;
use espalier_proto::v1::{
    self, RankProgress, RankReport, RecoveryReport, RendezvousReady, RunningGang, SessionResponse,
    Worker, session_response,
};
use espalier_store::StoreError;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::clock::Millis;
use crate::error::Error;
use crate::job::{JobId, Snapshot};
use crate::queue::Queue;
use crate::worker::WorkerRecord;

/// Longest wait for the loop to take and answer a command.
const DEADLINE: Duration = Duration::from_secs(10);

/// What goes down a session.
pub(crate) type Outgoing = mpsc::Sender<Result<SessionResponse, Status>>;

/// What the loop is asked to do.
pub(super) enum Command {
    Submit(Submission, Reply<Snapshot>),
    Cancel(JobId, String, Reply<Snapshot>),
    Pause(JobId, String, Reply<Snapshot>),
    Resume(JobId, Reply<Snapshot>),
    Register(Box<Registration>, Reply<u64>),
    Closed(String, u64),
    Rendezvous(String, RendezvousReady, Reply<()>),
    Report(String, RankReport, Reply<()>),
    Recovered(String, RecoveryReport, Reply<()>),
    Trained(JobId, u64, Reply<()>),
    Progress(String, Vec<RankProgress>),
    Workers(Reply<Vec<Worker>>),
    Drain(String, String, Duration, Reply<Worker>),
    Open(String, Reply<Worker>),
    Queues(Reply<Vec<v1::Queue>>),
    SetQueue(String, Queue, Reply<v1::Queue>),
    DeleteQueue(String, Reply<()>),
    Changed(JobId),
}

/// A checked job file to accept.
pub(super) struct Submission {
    pub(super) request_id: String,
    pub(super) spec: Arc<Job>,
    pub(super) spec_toml: String,
}

/// A worker that has opened a session.
pub(super) struct Registration {
    pub(super) record: WorkerRecord,
    pub(super) running: Vec<RunningGang>,
    pub(super) link: Link,
}

/// The loop's end of a session.
pub(crate) struct Link {
    outgoing: Outgoing,
    heard: Arc<AtomicU64>,
    cut: CancellationToken,
}

impl Link {
    /// Joins a session's queue, the time of its last message, and the token that ends it.
    pub(crate) fn new(outgoing: Outgoing, heard: Arc<AtomicU64>, cut: CancellationToken) -> Self {
        Self {
            outgoing,
            heard,
            cut,
        }
    }

    pub(super) fn heard(&self) -> Millis {
        Millis(self.heard.load(Ordering::Relaxed))
    }

    /// Queues a message. A session whose queue is full is ended: what it missed is told again when
    /// the worker registers anew.
    pub(super) fn send(&self, message: session_response::Message) {
        let response = SessionResponse {
            message: Some(message),
        };
        if self.outgoing.try_send(Ok(response)).is_err() {
            self.cut.cancel();
        }
    }

    /// Ends the session, which has another in its place.
    pub(super) fn replace(&self) {
        let status = Status::aborted("replaced by a newer session of the same worker");
        // When the queue is full, the end of the stream has to do.
        let _ = self.outgoing.try_send(Err(status));
        self.cut.cancel();
    }
}

/// Where a command's answer goes. An error that ends the loop is kept for the loop, and the asker is
/// told that it is stopping, or who leads instead.
pub(super) struct Reply<T>(oneshot::Sender<Result<T, Error>>);

impl<T> Reply<T> {
    pub(super) fn send(self, result: Result<T, Error>) -> Result<(), Error> {
        let (answer, fate) = match result {
            Err(Error::Store(error @ StoreError::NotLeader { .. })) => {
                (Err(error.clone().into()), Err(error.into()))
            }
            Err(error) if error.is_fatal() => (Err(Error::Stopping), Err(error)),
            other => (other, Ok(())),
        };
        // Nobody waits any more when the asker's deadline has passed; the decision stands.
        let _ = self.0.send(answer);
        fate
    }
}

/// Talks to the loop. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Handle(mpsc::Sender<Command>);

impl Handle {
    pub(super) fn new(sender: mpsc::Sender<Command>) -> Self {
        Self(sender)
    }

    /// Accepts a job, or finds the one accepted for this request.
    pub(crate) async fn submit(
        &self,
        request_id: String,
        spec: Arc<Job>,
        spec_toml: String,
    ) -> Result<Snapshot, Error> {
        let submission = Submission {
            request_id,
            spec,
            spec_toml,
        };
        self.ask(|reply| Command::Submit(submission, reply)).await
    }

    /// Asks a job to stop.
    pub(crate) async fn cancel(&self, job: JobId, reason: String) -> Result<Snapshot, Error> {
        self.ask(|reply| Command::Cancel(job, reason, reply)).await
    }

    /// Holds a job back.
    pub(crate) async fn pause(&self, job: JobId, reason: String) -> Result<Snapshot, Error> {
        self.ask(|reply| Command::Pause(job, reason, reply)).await
    }

    /// Puts a paused job back into the queue.
    pub(crate) async fn resume(&self, job: JobId) -> Result<Snapshot, Error> {
        self.ask(|reply| Command::Resume(job, reply)).await
    }

    /// Lets a worker run empty, within a time.
    pub(crate) async fn drain(
        &self,
        worker: String,
        reason: String,
        within: Duration,
    ) -> Result<Worker, Error> {
        self.ask(|reply| Command::Drain(worker, reason, within, reply))
            .await
    }

    /// Opens a worker that is drained or excluded.
    pub(crate) async fn open(&self, worker: String) -> Result<Worker, Error> {
        self.ask(|reply| Command::Open(worker, reply)).await
    }

    /// The queues, sorted by name.
    pub(crate) async fn queues(&self) -> Result<Vec<v1::Queue>, Error> {
        self.ask(Command::Queues).await
    }

    /// Makes or changes a queue.
    pub(crate) async fn set_queue(&self, name: String, queue: Queue) -> Result<v1::Queue, Error> {
        self.ask(|reply| Command::SetQueue(name, queue, reply))
            .await
    }

    /// Removes a queue.
    pub(crate) async fn delete_queue(&self, name: String) -> Result<(), Error> {
        self.ask(|reply| Command::DeleteQueue(name, reply)).await
    }

    /// Opens a worker's session; answers its number.
    pub(crate) async fn register(
        &self,
        record: WorkerRecord,
        running: Vec<RunningGang>,
        link: Link,
    ) -> Result<u64, Error> {
        let registration = Box::new(Registration {
            record,
            running,
            link,
        });
        self.ask(|reply| Command::Register(registration, reply))
            .await
    }

    /// A session has ended.
    pub(crate) async fn closed(&self, worker: String, session: u64) {
        // When the loop has ended it has forgotten the session.
        let _ = self.0.send(Command::Closed(worker, session)).await;
    }

    /// Rank 0 of a gang listens.
    pub(crate) async fn rendezvous(
        &self,
        worker: String,
        ready: RendezvousReady,
    ) -> Result<(), Error> {
        self.ask(|reply| Command::Rendezvous(worker, ready, reply))
            .await
    }

    /// A rank changed.
    pub(crate) async fn report(&self, worker: String, report: RankReport) -> Result<(), Error> {
        self.ask(|reply| Command::Report(worker, report, reply))
            .await
    }

    /// The first step after a recovery is done.
    pub(crate) async fn recovered(
        &self,
        worker: String,
        report: RecoveryReport,
    ) -> Result<(), Error> {
        self.ask(|reply| Command::Recovered(worker, report, reply))
            .await
    }

    /// The last step of a job was measured.
    pub(crate) async fn trained(&self, job: JobId, generation: u64) -> Result<(), Error> {
        self.ask(|reply| Command::Trained(job, generation, reply))
            .await
    }

    /// What the ranks of a worker last said. Lost when the queue is full: the next heartbeat tells anew.
    pub(crate) fn progress(&self, worker: &str, ranks: Vec<RankProgress>) {
        if !ranks.is_empty() {
            let _ = self.0.try_send(Command::Progress(worker.to_owned(), ranks));
        }
    }

    /// The workers, sorted by id.
    pub(crate) async fn workers(&self) -> Result<Vec<Worker>, Error> {
        self.ask(Command::Workers).await
    }

    /// Someone else wrote the job: look again. Lost when the queue is full: the loop looks by itself
    /// a little later.
    pub(crate) fn changed(&self, job: JobId) {
        let _ = self.0.try_send(Command::Changed(job));
    }

    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, Error> {
        let (sender, receiver) = oneshot::channel();
        let answered = async {
            self.0
                .send(command(Reply(sender)))
                .await
                .map_err(|_| Error::Stopping)?;
            receiver.await.map_err(|_| Error::Stopping)?
        };
        tokio::time::timeout(DEADLINE, answered)
            .await
            .unwrap_or(Err(Error::Busy))
    }
}
