//! Streams that catch up from the store and then go on as it changes.

use espalier_proto::v1::{StreamLogsResponse, WatchJobResponse};
use espalier_store::{Range, Revision, Store, StoreError};
use tokio::sync::mpsc;
use tonic::Status;

use crate::codec::decode;
use crate::error::Error;
use crate::job::{JobId, Record};
use crate::{feed, keys, logs};

/// Where a stream's items go; bounded, so that a slow client slows its stream only.
pub(super) type Sink<T> = mpsc::Sender<Result<T, Status>>;

/// Sends a job's feed after a cursor, to its terminal event.
pub(super) async fn feed(
    store: Store,
    job: JobId,
    mut after: u64,
    sink: Sink<WatchJobResponse>,
) -> Result<(), Error> {
    loop {
        let seen = look(&store, &job).await?;
        let page = feed::read(&store, &job, after).await?;
        for entry in page.entries {
            after = entry.cursor;
            let last = feed::is_terminal(&entry);
            if sink.send(Ok(entry)).await.is_err() || last {
                return Ok(());
            }
        }
        if page.more {
            continue;
        }
        // The client has the terminal event already.
        if seen.ended {
            return Ok(());
        }
        let entries = keys::feed(&job);
        tokio::select! {
            () = sink.closed() => return Ok(()),
            changed = changed(&store, &entries, seen.revision) => changed?,
        }
    }
}

/// Sends a job's log after a cursor; with `follow`, until the job has ended.
pub(super) async fn log(
    store: Store,
    job: JobId,
    mut after: u64,
    follow: bool,
    sink: Sink<StreamLogsResponse>,
) -> Result<(), Error> {
    loop {
        let seen = look(&store, &job).await?;
        let page = logs::read(&store, &job, after).await?;
        for line in page.lines {
            after = line.cursor;
            if sink.send(Ok(line)).await.is_err() {
                return Ok(());
            }
        }
        if page.more {
            continue;
        }
        if seen.ended || !follow {
            return Ok(());
        }
        let (log, record) = (keys::log(&job), keys::job(&job));
        tokio::select! {
            () = sink.closed() => return Ok(()),
            changed = changed(&store, &log, seen.revision) => changed?,
            changed = changed(&store, &record, seen.revision) => changed?,
        }
    }
}

struct Seen {
    /// The job had ended, so all of its feed was stored.
    ended: bool,
    /// At this revision.
    revision: Revision,
}

async fn look(store: &Store, job: &JobId) -> Result<Seen, Error> {
    let page = store.range(Range::prefix(keys::job(job)).limit(1)).await?;
    let entry = page
        .entries
        .first()
        .filter(|entry| entry.key == keys::job(job));
    let record: Record = decode(entry.ok_or_else(|| Error::NoSuchJob(job.clone()))?)?;
    Ok(Seen {
        ended: record.state.is_terminal(),
        revision: page.revision,
    })
}

/// Waits until something under the prefix has changed after a revision. Changes that are no longer
/// kept are changes too: the caller reads again either way.
async fn changed(store: &Store, prefix: &str, seen: Revision) -> Result<(), Error> {
    match store.watch(prefix, seen.next())?.next().await {
        Ok(_) | Err(StoreError::Compacted { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
