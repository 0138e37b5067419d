use std::ops::Bound;

use redb::ReadTransaction;

use super::tables::{COMPACTED, COUNTERS, ENTRIES, LOG, LOG_DELETE, REVISION};
use crate::{Change, Changes, Entry, Page, Range, Revision};

/// Most changes read from the log at once; the rest of the last transaction comes with them.
const LOG_BATCH: usize = 256;

pub(super) fn get(txn: &ReadTransaction, key: &str) -> Result<Option<Entry>, redb::Error> {
    let entries = txn.open_table(ENTRIES)?;
    Ok(entries.get(key)?.map(|found| entry(key, found.value())))
}

pub(super) fn range(txn: &ReadTransaction, range: &Range) -> Result<Page, redb::Error> {
    let entries = txn.open_table(ENTRIES)?;
    let end = range.end();
    let after = range.after.as_deref();
    let (mut low, mut high) = (
        Bound::Included(range.prefix.as_str()),
        Bound::Excluded(end.as_str()),
    );
    if let Some(after) = after {
        if range.reverse && after < end.as_str() {
            high = Bound::Excluded(after);
        } else if !range.reverse && after >= range.prefix.as_str() {
            low = Bound::Excluded(after);
        }
    }
    let mut page = Page {
        entries: Vec::new(),
        revision: counter(txn, REVISION)?,
        more: false,
    };
    if !in_order(low, high) {
        return Ok(page);
    }
    let mut found = entries.range::<&str>((low, high))?;
    loop {
        let next = if range.reverse {
            found.next_back()
        } else {
            found.next()
        };
        let Some(next) = next else { break };
        if page.entries.len() == range.limit {
            page.more = true;
            break;
        }
        let (key, value) = next?;
        page.entries.push(entry(key.value(), value.value()));
    }
    Ok(page)
}

/// Ranges out of order make the backend panic.
fn in_order(low: Bound<&str>, high: Bound<&str>) -> bool {
    match (low, high) {
        (Bound::Included(low) | Bound::Excluded(low), Bound::Excluded(high)) => low < high,
        _ => true,
    }
}

/// What a look into the change log found.
pub(super) enum LogRead {
    /// Whole transactions, and the revision to look from next.
    Found(Vec<Changes>, Revision),
    /// The revision asked for is no longer kept.
    Compacted { oldest: Revision },
}

/// Changes under the prefix from a revision on, a bounded number of them.
pub(super) fn log(
    txn: &ReadTransaction,
    prefix: &str,
    from: Revision,
) -> Result<LogRead, redb::Error> {
    let compacted = counter(txn, COMPACTED)?;
    if from <= compacted && compacted > Revision(0) {
        return Ok(LogRead::Compacted {
            oldest: compacted.next(),
        });
    }
    let latest = counter(txn, REVISION)?;
    let log = txn.open_table(LOG)?;
    let mut found: Vec<Changes> = Vec::new();
    let mut count = 0;
    for row in log.range((from.0, 0)..)? {
        let (at, change) = row?;
        let (revision, _) = at.value();
        let (kind, key, create, value) = change.value();
        let same = found.last().is_some_and(|c| c.revision.0 == revision);
        if count >= LOG_BATCH && !same {
            return Ok(LogRead::Found(found, Revision(revision)));
        }
        if !key.starts_with(prefix) {
            continue;
        }
        count += 1;
        let change = if kind == LOG_DELETE {
            Change::Delete {
                key: key.to_owned(),
            }
        } else {
            Change::Put(entry(key, (create, revision, 0, value)))
        };
        match found.last_mut() {
            Some(last) if same => last.changes.push(change),
            _ => found.push(Changes {
                revision: Revision(revision),
                changes: vec![change],
            }),
        }
    }
    Ok(LogRead::Found(found, from.max(latest.next())))
}

fn counter(txn: &ReadTransaction, name: &str) -> Result<Revision, redb::Error> {
    let counters = txn.open_table(COUNTERS)?;
    let value = counters.get(name)?.map_or(0, |v| v.value());
    Ok(Revision(value))
}

fn entry(key: &str, (create, modified, _, value): (u64, u64, u64, &[u8])) -> Entry {
    Entry {
        key: key.to_owned(),
        value: value.to_vec(),
        create_revision: Revision(create),
        mod_revision: Revision(modified),
    }
}
