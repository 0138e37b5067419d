use std::time::Duration;

use redb::{ReadableTable as _, Table, WriteTransaction};

use super::tables::{
    COMPACTED, COUNTERS, ENTRIES, EntryRow, LEASE, LEASE_KEYS, LEASES, LOG, LOG_BYTES, LOG_DELETE,
    LOG_PUT, LogRow, REVISION,
};
use crate::{Op, Outcome, Revision, StoreError, Txn};

/// Several transactions made durable by one commit. Each is applied whole, in order, or not at all;
/// a backend error fails the batch.
pub(super) struct Batch<'txn> {
    entries: Table<'txn, &'static str, EntryRow>,
    log: Table<'txn, (u64, u32), LogRow>,
    leases: Table<'txn, u64, u64>,
    lease_keys: Table<'txn, (u64, &'static str), ()>,
    counters: Table<'txn, &'static str, u64>,
    /// Latest revision, this batch included.
    pub(super) revision: Revision,
    /// Whether there is anything to commit.
    pub(super) dirty: bool,
}

impl<'txn> Batch<'txn> {
    pub(super) fn new(txn: &'txn WriteTransaction) -> Result<Self, redb::Error> {
        let counters = txn.open_table(COUNTERS)?;
        let revision = Revision(counters.get(REVISION)?.map_or(0, |v| v.value()));
        Ok(Self {
            entries: txn.open_table(ENTRIES)?,
            log: txn.open_table(LOG)?,
            leases: txn.open_table(LEASES)?,
            lease_keys: txn.open_table(LEASE_KEYS)?,
            counters,
            revision,
            dirty: false,
        })
    }

    /// Applies a transaction that [`Txn::validate`] let pass. The inner error is the caller's.
    pub(super) fn apply(&mut self, txn: &Txn) -> Result<Result<Outcome, StoreError>, redb::Error> {
        for compare in &txn.compares {
            let revisions = self.entries.get(compare.key())?.map(|found| {
                let (create, modified, ..) = found.value();
                (Revision(create), Revision(modified))
            });
            if !compare.holds(revisions) {
                return Ok(Ok(Outcome::Conflict));
            }
        }
        for op in &txn.ops {
            if let Op::Put {
                lease: Some(lease), ..
            } = op
                && self.leases.get(lease.0)?.is_none()
            {
                return Ok(Err(StoreError::LeaseNotFound(lease.0)));
            }
        }
        let revision = self.revision.next();
        let mut index = 0;
        for op in &txn.ops {
            match op {
                Op::Put { key, value, lease } => {
                    let lease = lease.map_or(0, |l| l.0);
                    self.put(revision, index, key, value, lease)?;
                    index += 1;
                }
                Op::Delete { key } => {
                    if self.delete(revision, index, key)? {
                        index += 1;
                    }
                }
            }
        }
        self.finish(revision, index)?;
        Ok(Ok(Outcome::Committed(self.revision)))
    }

    pub(super) fn grant(&mut self, ttl: Duration) -> Result<u64, redb::Error> {
        let id = self.count(LEASE, |n| n + 1)?;
        let millis = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).max(1);
        self.leases.insert(id, millis)?;
        self.dirty = true;
        Ok(id)
    }

    /// Removes a lease and its keys, as one transaction; false when there is no such lease.
    pub(super) fn end_lease(&mut self, id: u64) -> Result<bool, redb::Error> {
        if self.leases.remove(id)?.is_none() {
            return Ok(false);
        }
        self.dirty = true;
        let mut keys = Vec::new();
        for row in self.lease_keys.range((id, "")..(id + 1, ""))? {
            keys.push(row?.0.value().1.to_owned());
        }
        let revision = self.revision.next();
        let mut index = 0;
        for key in &keys {
            if self.delete(revision, index, key)? {
                index += 1;
            }
        }
        self.finish(revision, index)?;
        Ok(true)
    }

    /// Drops the oldest transactions from the change log until it keeps at most `revisions` of them
    /// and at most `bytes`.
    pub(super) fn compact(&mut self, revisions: u64, bytes: u64) -> Result<(), redb::Error> {
        let floor = self.revision.0.saturating_sub(revisions);
        let mut size = self.count(LOG_BYTES, |n| n)?;
        let mut compacted = self.count(COMPACTED, |n| n)?;
        let before = compacted;
        while let Some((oldest, _)) = self.oldest_row()? {
            if oldest > floor && size <= bytes {
                break;
            }
            while let Some(at) = self.oldest_row()?
                && at.0 == oldest
            {
                if let Some(row) = self.log.remove(at)? {
                    let (_, key, _, value) = row.value();
                    size = size.saturating_sub(weight(key, value));
                }
            }
            compacted = oldest;
        }
        if compacted != before {
            self.count(LOG_BYTES, |_| size)?;
            self.count(COMPACTED, |_| compacted)?;
        }
        Ok(())
    }

    fn oldest_row(&self) -> Result<Option<(u64, u32)>, redb::Error> {
        Ok(self.log.first()?.map(|(at, _)| at.value()))
    }

    fn put(
        &mut self,
        revision: Revision,
        index: u32,
        key: &str,
        value: &[u8],
        lease: u64,
    ) -> Result<(), redb::Error> {
        let before = self.entries.get(key)?.map(|found| {
            let (create, _, lease, _) = found.value();
            (create, lease)
        });
        let create = before.map_or(revision.0, |(create, _)| create);
        self.detach(key, before.map_or(0, |(_, lease)| lease))?;
        self.entries
            .insert(key, (create, revision.0, lease, value))?;
        if lease != 0 {
            self.lease_keys.insert((lease, key), ())?;
        }
        self.log(revision, index, (LOG_PUT, key, create, value))
    }

    fn delete(&mut self, revision: Revision, index: u32, key: &str) -> Result<bool, redb::Error> {
        let Some(lease) = self.entries.remove(key)?.map(|found| found.value().2) else {
            return Ok(false);
        };
        self.detach(key, lease)?;
        self.log(revision, index, (LOG_DELETE, key, 0, &[]))?;
        Ok(true)
    }

    fn detach(&mut self, key: &str, lease: u64) -> Result<(), redb::Error> {
        if lease != 0 {
            self.lease_keys.remove((lease, key))?;
        }
        Ok(())
    }

    fn log(
        &mut self,
        revision: Revision,
        index: u32,
        row: (u8, &str, u64, &[u8]),
    ) -> Result<(), redb::Error> {
        self.log.insert((revision.0, index), row)?;
        self.count(LOG_BYTES, |n| n + weight(row.1, row.3))?;
        Ok(())
    }

    /// Takes the revision into use if the transaction made changes.
    fn finish(&mut self, revision: Revision, changes: u32) -> Result<(), redb::Error> {
        if changes > 0 {
            self.revision = revision;
            self.count(REVISION, |_| revision.0)?;
            self.dirty = true;
        }
        Ok(())
    }

    fn count(&mut self, name: &str, f: impl FnOnce(u64) -> u64) -> Result<u64, redb::Error> {
        let before = self.counters.get(name)?.map_or(0, |v| v.value());
        let after = f(before);
        if after != before {
            self.counters.insert(name, after)?;
        }
        Ok(after)
    }
}

fn weight(key: &str, value: &[u8]) -> u64 {
    (key.len() + value.len()) as u64
}
