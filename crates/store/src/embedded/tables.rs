use redb::{Database, TableDefinition};

/// (create revision, mod revision, lease or 0, value).
pub(super) type EntryRow = (u64, u64, u64, &'static [u8]);

/// (kind, key, create revision, value).
pub(super) type LogRow = (u8, &'static str, u64, &'static [u8]);

/// By key.
pub(super) const ENTRIES: TableDefinition<&str, EntryRow> = TableDefinition::new("entries");

/// The change log, by revision and index in its transaction.
pub(super) const LOG: TableDefinition<(u64, u32), LogRow> = TableDefinition::new("log");

/// Lease -> time to live, in milliseconds.
pub(super) const LEASES: TableDefinition<u64, u64> = TableDefinition::new("leases");

/// Keys attached to each lease.
pub(super) const LEASE_KEYS: TableDefinition<(u64, &str), ()> = TableDefinition::new("lease-keys");

/// Counters, by the names below; absent is 0.
pub(super) const COUNTERS: TableDefinition<&str, u64> = TableDefinition::new("counters");

/// Latest revision.
pub(super) const REVISION: &str = "revision";
/// Latest revision no longer in the change log.
pub(super) const COMPACTED: &str = "compacted";
/// Bytes of keys and values in the change log.
pub(super) const LOG_BYTES: &str = "log-bytes";
/// Latest lease granted.
pub(super) const LEASE: &str = "lease";

pub(super) const LOG_PUT: u8 = 0;
pub(super) const LOG_DELETE: u8 = 1;

/// Makes every table, so that readers always find them.
pub(super) fn create(db: &Database) -> Result<(), redb::Error> {
    let txn = db.begin_write()?;
    txn.open_table(ENTRIES)?;
    txn.open_table(LOG)?;
    txn.open_table(LEASES)?;
    txn.open_table(LEASE_KEYS)?;
    txn.open_table(COUNTERS)?;
    txn.commit()?;
    Ok(())
}
