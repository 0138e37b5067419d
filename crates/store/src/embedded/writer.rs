use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use super::Options;
use super::batch::Batch;
use super::shared::{Shared, failed};
use crate::{LeaseId, Outcome, Revision, StoreError, Txn};

/// Most commands made durable by one fsync.
const MAX_BATCH: usize = 256;

type Answer<T> = oneshot::Sender<Result<T, StoreError>>;

/// What the writer thread is asked to do.
pub(super) enum Command {
    Commit(Txn, Answer<Outcome>),
    Grant(Duration, Answer<LeaseId>),
    Revoke(LeaseId, Answer<()>),
    /// End the leases that have expired.
    Sweep,
    /// Finish what came before, then end.
    Close,
}

/// An answer, to be given once the batch is durable.
enum Done {
    Commit(Answer<Outcome>, Result<Outcome, StoreError>),
    Grant(Answer<LeaseId>, u64, Duration),
    Revoke(Answer<()>, LeaseId, bool),
    Swept(Vec<u64>),
}

/// The body of the only thread that writes. Ends on [`Command::Close`] or when every sender is gone.
pub(super) fn run(
    mut commands: mpsc::Receiver<Command>,
    shared: &Arc<Shared>,
    latest: &watch::Sender<Revision>,
    options: &Options,
) {
    let mut open = true;
    while open {
        let Some(first) = commands.blocking_recv() else {
            break;
        };
        let mut batch = vec![first];
        while batch.len() < MAX_BATCH
            && let Ok(command) = commands.try_recv()
        {
            batch.push(command);
        }
        if let Some(end) = batch.iter().position(|c| matches!(c, Command::Close)) {
            batch.truncate(end);
            open = false;
        }
        write(shared, latest, options, batch);
    }
    shared.close();
}

fn write(
    shared: &Shared,
    latest: &watch::Sender<Revision>,
    options: &Options,
    commands: Vec<Command>,
) {
    let now = shared.clock.now();
    let expired = if commands.iter().any(|c| matches!(c, Command::Sweep)) {
        shared.leases().expired(now)
    } else {
        Vec::new()
    };
    if commands.iter().all(|c| matches!(c, Command::Sweep)) && expired.is_empty() {
        return;
    }
    let mut answers = Vec::new();
    let result = shared.with(|db| {
        let txn = db.begin_write().map_err(failed)?;
        let (revision, dirty) = {
            let mut batch = Batch::new(&txn).map_err(failed)?;
            for id in &expired {
                batch.end_lease(*id).map_err(failed)?;
            }
            for command in commands {
                answers.extend(apply(&mut batch, command).map_err(failed)?);
            }
            batch
                .compact(options.log_revisions, options.log_bytes)
                .map_err(failed)?;
            (batch.revision, batch.dirty)
        };
        if dirty {
            txn.commit().map_err(failed)?;
        } else {
            txn.abort().map_err(failed)?;
        }
        Ok(revision)
    });
    match &result {
        Ok(revision) => {
            if !expired.is_empty() {
                tracing::info!(leases = ?expired, "leases expired");
                answers.push(Done::Swept(expired));
            }
            latest.send_replace(*revision);
        }
        Err(error) => tracing::error!(%error, "write failed"),
    }
    for answer in answers {
        give(shared, answer, result.as_ref().err(), now);
    }
}

fn apply(batch: &mut Batch<'_>, command: Command) -> Result<Option<Done>, redb::Error> {
    Ok(match command {
        Command::Commit(txn, answer) => Some(Done::Commit(answer, batch.apply(&txn)?)),
        Command::Grant(ttl, answer) => Some(Done::Grant(answer, batch.grant(ttl)?, ttl)),
        Command::Revoke(lease, answer) => {
            Some(Done::Revoke(answer, lease, batch.end_lease(lease.0)?))
        }
        Command::Sweep | Command::Close => None,
    })
}

/// Answers. Whoever asked may have gone: then nobody needs the answer.
fn give(shared: &Shared, done: Done, error: Option<&StoreError>, now: Duration) {
    let checked = |result| error.map_or(result, |e| Err(e.clone()));
    match done {
        Done::Commit(answer, result) => {
            let _ = answer.send(error.map_or(result, |e| Err(e.clone())));
        }
        Done::Grant(answer, id, ttl) => {
            if error.is_none() {
                shared.leases().start(id, ttl, now);
            }
            let _ = answer.send(error.map_or(Ok(LeaseId(id)), |e| Err(e.clone())));
        }
        Done::Revoke(answer, lease, found) => {
            if error.is_none() {
                shared.leases().end(lease.0);
            }
            let result = if found {
                Ok(())
            } else {
                Err(StoreError::LeaseNotFound(lease.0))
            };
            let _ = answer.send(checked(result));
        }
        Done::Swept(ids) => {
            let mut leases = shared.leases();
            for id in ids {
                leases.end(id);
            }
        }
    }
}
