//! What can go wrong inside the coordinator.

use espalier_store::StoreError;

use crate::codec::Unreadable;
use crate::job::{IllegalTransition, JobId, State};

/// Why the coordinator did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store failed, or this coordinator no longer leads.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A stored value cannot be read.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// A decision does not fit the job's state.
    #[error(transparent)]
    Illegal(#[from] IllegalTransition),
    /// Others changed the same keys again and again.
    #[error("{what} changed too often while it was being written; try again")]
    Contended {
        /// What was written.
        what: String,
    },
    /// There is no such job.
    #[error("there is no job {0}")]
    NoSuchJob(JobId),
    /// The request id stands for a submit of something else.
    #[error("request_id was used before, for another job file: it is job {0}")]
    RequestReused(JobId),
    /// The job is past what was asked of it.
    #[error("job {job} is {state} and cannot be {asked}")]
    WrongState {
        /// The job.
        job: JobId,
        /// Where it stands.
        state: State,
        /// What was asked.
        asked: &'static str,
    },
    /// There is no such worker.
    #[error("there is no worker {0}")]
    NoSuchWorker(String),
    /// There is no such queue.
    #[error("there is no queue {0}")]
    NoSuchQueue(String),
    /// A job file names a queue that is not there.
    #[error("resources.queue: there is no queue `{name}`; {}", listed(.known))]
    UnknownQueue {
        /// The name.
        name: String,
        /// Those that are there.
        known: Vec<String>,
    },
    /// Jobs of the queue have not ended.
    #[error(
        "queue {name} has {jobs} jobs that have not ended; let them end, or cancel them, first"
    )]
    QueueInUse {
        /// The queue.
        name: String,
        /// How many.
        jobs: usize,
    },
    /// Too many queues are there.
    #[error("there are {0} queues, which is the most this coordinator takes")]
    TooManyQueues(usize),
    /// Too many jobs wait or run.
    #[error(
        "{0} jobs wait or run, which is the most this coordinator takes; try again when some have ended"
    )]
    QueueFull(usize),
    /// Too many workers are known.
    #[error("{0} workers are known, which is the most this coordinator takes")]
    TooManyWorkers(usize),
    /// The coordinator is going down.
    #[error("the coordinator is stopping")]
    Stopping,
    /// The coordinator is behind with its work.
    #[error("the coordinator did not answer in time; try again")]
    Busy,
}

impl Error {
    /// The store can no longer be trusted to hold what this process believes: it must end, and start
    /// over from what is stored.
    pub fn is_fatal(&self) -> bool {
        matches!(
            self,
            Self::Unreadable(_)
                | Self::Store(
                    StoreError::NotLeader { .. }
                        | StoreError::Unreachable(_)
                        | StoreError::Unknown(_)
                        | StoreError::Backend(_)
                        | StoreError::Closed
                )
        )
    }

    /// Ends this coordinator's term and nothing else: it may campaign again.
    pub fn ends_term(&self) -> bool {
        matches!(self, Self::Store(error) if ends_term(error))
    }
}

fn listed(queues: &[String]) -> String {
    match queues {
        [] => "there is only `default`".to_owned(),
        queues => format!("there are `default`, `{}`", queues.join("`, `")),
    }
}

/// A store of several coordinators that failed this one, or is another's by now.
pub(crate) fn ends_term(error: &StoreError) -> bool {
    matches!(
        error,
        StoreError::NotLeader { .. }
            | StoreError::Unreachable(_)
            | StoreError::Unknown(_)
            | StoreError::Backend(_)
    )
}
