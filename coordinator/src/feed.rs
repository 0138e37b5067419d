//! A job's feed: events and metrics in order, each at a cursor that grows by one. An append compares
//! its cursors to be absent, so that two writers never take the same one.

use espalier_proto::v1::watch_job_response::Entry as FeedEntry;
use espalier_proto::v1::{JobEvent, JobEventKind, JobState, WatchJobResponse};
use espalier_store::{Compare, Entry, Op, Range, Revision, Store};
use prost::Message as _;

use crate::clock::timestamp;
use crate::codec::{self, Unreadable};
use crate::error::Error;
use crate::job::JobId;
use crate::keys;

/// Most entries in a page.
const PAGE: usize = 256;

/// The cursor after the last.
pub(crate) async fn next_cursor(store: &Store, job: &JobId) -> Result<u64, Error> {
    if let Some(head) = store.get(&keys::feed_head(job)).await? {
        let last: u64 = codec::decode(&head)?;
        return Ok(last + 1);
    }
    // The feed is empty, or was written before heads were.
    let last = Range::prefix(keys::feed(job)).reverse().limit(1);
    let page = store.range(last).await?;
    Ok(page
        .entries
        .first()
        .and_then(|e| keys::cursor(&e.key))
        .unwrap_or(0)
        + 1)
}

/// Conditions and changes that append entries from a cursor on.
pub(crate) fn append(
    job: &JobId,
    first: u64,
    wall: u64,
    entries: impl IntoIterator<Item = FeedEntry>,
) -> (Vec<Compare>, Vec<Op>) {
    let prefix = keys::feed(job);
    let (compares, mut ops): (Vec<_>, Vec<_>) = entries
        .into_iter()
        .zip(first..)
        .map(|(entry, cursor)| {
            let key = keys::at(&prefix, cursor);
            let value = WatchJobResponse {
                // The key carries it.
                cursor: 0,
                time: Some(timestamp(wall)),
                entry: Some(entry),
            };
            (
                Compare::Absent(key.clone()),
                Op::put(key, value.encode_to_vec()),
            )
        })
        .unzip();
    if !ops.is_empty() {
        let last = first + ops.len() as u64 - 1;
        ops.push(Op::put(keys::feed_head(job), codec::encode(&last)));
    }
    (compares, ops)
}

/// A page of a feed.
pub(crate) struct Page {
    /// In order.
    pub(crate) entries: Vec<WatchJobResponse>,
    /// Whether more are stored.
    pub(crate) more: bool,
}

/// Entries after a cursor.
pub(crate) async fn read(store: &Store, job: &JobId, after: u64) -> Result<Page, Error> {
    let prefix = keys::feed(job);
    let start = keys::at(&prefix, after);
    let page = store
        .range(Range::prefix(prefix).after(start).limit(PAGE))
        .await?;
    let entries = page.entries.iter().map(decode).collect::<Result<_, _>>()?;
    Ok(Page {
        entries,
        more: page.more,
    })
}

/// An entry is the last of its feed.
pub(crate) fn is_terminal(entry: &WatchJobResponse) -> bool {
    matches!(
        &entry.entry,
        Some(FeedEntry::Event(event)) if event.kind() == JobEventKind::StateChanged && matches!(
            event.state(),
            JobState::Succeeded | JobState::Failed | JobState::Cancelled
        )
    )
}

fn decode(entry: &Entry) -> Result<WatchJobResponse, Unreadable> {
    let cursor = keys::cursor(&entry.key)
        .ok_or_else(|| Unreadable::new(&entry.key, "the key does not end in a cursor"))?;
    let mut value = WatchJobResponse::decode(entry.value.as_slice())
        .map_err(|problem| Unreadable::new(&entry.key, problem))?;
    value.cursor = cursor;
    if let Some(FeedEntry::Event(event)) = &mut value.entry {
        complete(event, entry.mod_revision);
    }
    Ok(value)
}

/// A generation is the revision of the placing transaction, which the events in that very
/// transaction could not know when they were written.
fn complete(event: &mut JobEvent, revision: Revision) {
    let placing = event.kind() == JobEventKind::Placed
        || (event.kind() == JobEventKind::StateChanged && event.state() == JobState::Placing);
    if placing {
        event.generation = revision.0;
    }
}

#[cfg(test)]
mod tests {
    use espalier_proto::v1::StepMetrics;
    use espalier_store::{Options, Outcome, Txn};

    use super::*;

    fn metrics(step: u64) -> FeedEntry {
        FeedEntry::Metrics(StepMetrics {
            step,
            ..StepMetrics::default()
        })
    }

    #[tokio::test]
    async fn two_writers_cannot_take_the_same_cursor() {
        let store = Store::in_memory(Options::default()).await.unwrap();
        let leader = store.campaign("test").await.unwrap();
        let job = JobId::numbered(1);
        let next = next_cursor(&store, &job).await.unwrap();
        assert_eq!(next, 1);
        let write = async |entries: Vec<FeedEntry>| {
            let (compares, ops) = append(&job, next, 0, entries);
            leader.commit(Txn { compares, ops }).await.unwrap()
        };
        let first = write(vec![metrics(1), metrics(2)]).await;
        assert!(matches!(first, Outcome::Committed(_)));
        assert_eq!(write(vec![metrics(9)]).await, Outcome::Conflict);
        assert_eq!(next_cursor(&store, &job).await.unwrap(), 3);
        let page = read(&store, &job, 1).await.unwrap();
        let cursors: Vec<u64> = page.entries.iter().map(|entry| entry.cursor).collect();
        assert_eq!((cursors, page.more), (vec![2], false));
    }

    #[tokio::test]
    async fn the_placing_events_carry_the_revision_of_their_transaction() {
        let store = Store::in_memory(Options::default()).await.unwrap();
        let leader = store.campaign("test").await.unwrap();
        let job = JobId::numbered(1);
        let event = |kind: JobEventKind, state: JobState| {
            FeedEntry::Event(JobEvent {
                kind: kind.into(),
                state: state.into(),
                generation: 1,
                ..JobEvent::default()
            })
        };
        let (compares, ops) = append(
            &job,
            1,
            0,
            [
                event(JobEventKind::StateChanged, JobState::Placing),
                event(JobEventKind::Placed, JobState::Placing),
                event(JobEventKind::Warning, JobState::Placing),
            ],
        );
        let Outcome::Committed(revision) = leader.commit(Txn { compares, ops }).await.unwrap()
        else {
            panic!("conflict in an empty store");
        };
        let page = read(&store, &job, 0).await.unwrap();
        let generations: Vec<u64> = page
            .entries
            .iter()
            .map(|entry| match &entry.entry {
                Some(FeedEntry::Event(event)) => event.generation,
                _ => panic!("no event"),
            })
            .collect();
        assert_eq!(generations, [revision.0, revision.0, 1]);
    }
}
