//! A job's log: lines of its ranks in order, kept in chunks up to a bound of bytes, the oldest
//! dropped first. The key of a chunk is the cursor of its last line.

use espalier_proto::v1::StreamLogsResponse;
use espalier_store::{Compare, Entry, Op, Range, Store};
use prost::Message as _;
use serde::{Deserialize, Serialize};

use crate::codec::{Unreadable, decode, encode};
use crate::error::Error;
use crate::job::JobId;
use crate::keys;

/// Bytes of log kept for a job.
pub(crate) const BOUND: u64 = 64 << 20;

/// Most bytes of text in a chunk.
const CHUNK: usize = 256 << 10;

/// Most bytes of a line.
const LINE: usize = 8 << 10;

/// Chunks in a page.
const PAGE: usize = 8;

/// Most chunks dropped by one append.
const DROPS: usize = 128;

#[derive(Clone, PartialEq, prost::Message)]
struct Chunk {
    #[prost(message, repeated, tag = "1")]
    lines: Vec<StreamLogsResponse>,
}

/// How far a log has come.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    last: u64,
    bytes: u64,
}

/// Conditions and changes that append lines, and drop the oldest chunks beyond `bound` bytes.
pub(crate) async fn append(
    store: &Store,
    job: &JobId,
    lines: Vec<StreamLogsResponse>,
    bound: u64,
) -> Result<(Vec<Compare>, Vec<Op>), Error> {
    let head_key = keys::log_head(job);
    let head_entry = store.get(&head_key).await?;
    let mut head: Head = head_entry
        .as_ref()
        .map(decode)
        .transpose()?
        .unwrap_or_default();
    let prefix = keys::log(job);
    let mut ops = Vec::new();
    for lines in chunks(lines) {
        head.last += lines.len() as u64;
        let value = Chunk { lines }.encode_to_vec();
        head.bytes += value.len() as u64;
        ops.push(Op::put(keys::at(&prefix, head.last), value));
    }
    if head.bytes > bound {
        // Other logs may be in the same transaction.
        let drops = DROPS.min(store.limits().ops / 8);
        for entry in store
            .range(Range::prefix(prefix).limit(drops))
            .await?
            .entries
        {
            if head.bytes <= bound {
                break;
            }
            head.bytes = head.bytes.saturating_sub(entry.value.len() as u64);
            ops.push(Op::delete(entry.key));
        }
    }
    ops.push(Op::put(head_key.clone(), encode(&head)));
    Ok((vec![Compare::unchanged(head_key, head_entry.as_ref())], ops))
}

/// A page of a log.
pub(crate) struct Page {
    /// In order. Where lines were dropped, a line that says so.
    pub(crate) lines: Vec<StreamLogsResponse>,
    /// Whether more are stored.
    pub(crate) more: bool,
}

/// Lines after a cursor.
pub(crate) async fn read(store: &Store, job: &JobId, after: u64) -> Result<Page, Error> {
    let prefix = keys::log(job);
    let start = keys::at(&prefix, after);
    let page = store
        .range(Range::prefix(prefix).after(start).limit(PAGE))
        .await?;
    let mut lines = Vec::new();
    for entry in &page.entries {
        lines.extend(
            unpack(entry)?
                .into_iter()
                .filter(|line| line.cursor > after),
        );
    }
    if let Some(marker) = lines.first().and_then(|first| gap(after, first)) {
        lines.insert(0, marker);
    }
    Ok(Page {
        lines,
        more: page.more,
    })
}

/// A line in place of those that were dropped between a cursor and a line.
fn gap(after: u64, first: &StreamLogsResponse) -> Option<StreamLogsResponse> {
    let dropped = first.cursor - after - 1;
    (dropped > 0).then(|| StreamLogsResponse {
        cursor: first.cursor - 1,
        line: format!(
            "[{dropped} older lines were dropped: a job's log keeps {} MiB]",
            BOUND >> 20
        ),
        ..first.clone()
    })
}

fn unpack(entry: &Entry) -> Result<Vec<StreamLogsResponse>, Unreadable> {
    let last = keys::cursor(&entry.key)
        .ok_or_else(|| Unreadable::new(&entry.key, "the key does not end in a cursor"))?;
    let mut lines = Chunk::decode(entry.value.as_slice())
        .map_err(|problem| Unreadable::new(&entry.key, problem))?
        .lines;
    let first = last + 1 - lines.len() as u64;
    for (line, cursor) in lines.iter_mut().zip(first..) {
        line.cursor = cursor;
    }
    Ok(lines)
}

fn chunks(lines: Vec<StreamLogsResponse>) -> Vec<Vec<StreamLogsResponse>> {
    let mut chunks: Vec<Vec<StreamLogsResponse>> = Vec::new();
    let mut room = 0;
    for mut line in lines {
        line.line.truncate(line.line.floor_char_boundary(LINE));
        // Time, generation and rank take a few dozen bytes beside the text.
        let size = line.line.len() + 64;
        match chunks.last_mut() {
            Some(chunk) if size <= room => {
                room -= size;
                chunk.push(line);
            }
            _ => {
                room = CHUNK.saturating_sub(size);
                chunks.push(vec![line]);
            }
        }
    }
    chunks
}

#[cfg(test)]
mod tests {
    use espalier_store::{Options, Txn};

    use super::*;

    fn lines(n: usize, text: &str) -> Vec<StreamLogsResponse> {
        (0..n)
            .map(|i| StreamLogsResponse {
                line: format!("{text}{i}"),
                rank: 3,
                ..StreamLogsResponse::default()
            })
            .collect()
    }

    async fn write(store: &Store, job: &JobId, lines: Vec<StreamLogsResponse>, bound: u64) {
        let leader = store.campaign("test").await.unwrap();
        let (compares, ops) = append(store, job, lines, bound).await.unwrap();
        leader.commit(Txn { compares, ops }).await.unwrap();
    }

    async fn all(store: &Store, job: &JobId, mut after: u64) -> Vec<(u64, String)> {
        let mut found = Vec::new();
        loop {
            let page = read(store, job, after).await.unwrap();
            found.extend(page.lines.into_iter().map(|l| (l.cursor, l.line)));
            match found.last() {
                Some((cursor, _)) if page.more => after = *cursor,
                _ => return found,
            }
        }
    }

    #[tokio::test]
    async fn lines_are_read_from_any_cursor_on() {
        let store = Store::in_memory(Options::default()).await.unwrap();
        let job = JobId::numbered(1);
        write(&store, &job, lines(3, "a"), BOUND).await;
        write(&store, &job, lines(2, "b"), BOUND).await;
        let from = |n: usize| {
            let names = ["a0", "a1", "a2", "b0", "b1"];
            (n..5)
                .map(|i| (i as u64 + 1, names[i].to_owned()))
                .collect::<Vec<_>>()
        };
        for after in 0..=5 {
            assert_eq!(
                all(&store, &job, after as u64).await,
                from(after),
                "after {after}"
            );
        }
    }

    #[tokio::test]
    async fn the_oldest_chunks_go_and_leave_a_line_that_says_so() {
        let store = Store::in_memory(Options::default()).await.unwrap();
        let job = JobId::numbered(1);
        for round in 0..10 {
            write(
                &store,
                &job,
                lines(10, &format!("{round}-{}", "x".repeat(100))),
                4000,
            )
            .await;
        }
        let found = all(&store, &job, 0).await;
        let (cursor, marker) = &found[0];
        assert_eq!(
            marker,
            &format!("[{cursor} older lines were dropped: a job's log keeps 64 MiB]")
        );
        let cursors: Vec<u64> = found.iter().map(|(cursor, _)| *cursor).collect();
        assert_eq!(cursors, (*cursor..=100).collect::<Vec<_>>());
        assert!(*cursor >= 60);
    }

    #[test]
    fn long_lines_are_cut_and_chunks_stay_small() {
        let cut = chunks(lines(1, &"\u{e9}".repeat(10_000)));
        assert!(cut[0][0].line.len() <= LINE);
        let cut = chunks(lines(500, &"x".repeat(5000)));
        assert!(cut.len() >= 10);
        assert!(
            cut.iter()
                .all(|c| c.iter().map(|l| l.line.len()).sum::<usize>() <= CHUNK)
        );
        assert_eq!(cut.iter().map(Vec::len).sum::<usize>(), 500);
    }
}
