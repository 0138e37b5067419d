use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::leader::LEADER_KEY;
use crate::{
    Change, Changes, Clock, Entry, LeaseId, Op, Outcome, Page, Range, Revision, StoreError, Txn,
};

/// Transactions that watches can go back to.
const HISTORY: usize = 10_000;

/// What the processes share. Clones are the same memory.
#[derive(Clone)]
pub struct Memory(Arc<Mutex<State>>);

/// A transaction that has just changed something.
pub struct Applied<'a> {
    /// Its number.
    pub revision: Revision,
    /// Fence of the leader who sent it; none of a campaign, or the end of a lease.
    pub writer: Option<Revision>,
    /// Fence of the leader in office when it was made.
    pub leader: Option<Revision>,
    /// Each change, with what was there before.
    pub changes: &'a [(Option<Entry>, Change)],
    /// All that is there now.
    pub entries: &'a BTreeMap<String, Entry>,
}

/// Looks at each transaction before anything else happens.
type Observer = Box<dyn FnMut(&Applied<'_>) + Send>;

pub(super) struct State {
    clock: Arc<dyn Clock>,
    pub(super) leader_ttl: Duration,
    entries: BTreeMap<String, Entry>,
    log: VecDeque<Changes>,
    leases: BTreeMap<u64, Lease>,
    /// The lease of each key that has one.
    leased: BTreeMap<String, u64>,
    granted: u64,
    revision: Revision,
    /// Newest transaction that is no longer in the log.
    compacted: Revision,
    latest: watch::Sender<Revision>,
    observer: Option<Observer>,
}

struct Lease {
    ttl: Duration,
    deadline: Duration,
}

impl Memory {
    /// Empty, with leases that expire by this clock. A right to lead lasts `leader_ttl`, unless renewed.
    pub fn new(clock: Arc<dyn Clock>, leader_ttl: Duration) -> Self {
        Self(Arc::new(Mutex::new(State {
            clock,
            leader_ttl,
            entries: BTreeMap::new(),
            log: VecDeque::new(),
            leases: BTreeMap::new(),
            leased: BTreeMap::new(),
            granted: 0,
            revision: Revision(0),
            compacted: Revision(0),
            latest: watch::Sender::new(Revision(0)),
            observer: None,
        })))
    }

    /// Has every transaction from now on looked at.
    pub fn observe(&self, observer: impl FnMut(&Applied<'_>) + Send + 'static) {
        self.state().observer = Some(Box::new(observer));
    }

    /// All that is there.
    pub fn entries(&self) -> BTreeMap<String, Entry> {
        self.state().entries.clone()
    }

    /// The state, without what has expired. A lock poisoned by an observer that panicked is taken all
    /// the same: it looks when all is done.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.expire();
        state
    }
}

impl State {
    pub(super) fn get(&self, key: &str) -> Option<Entry> {
        self.entries.get(key).cloned()
    }

    pub(super) fn range(&self, range: &Range) -> Page {
        let after = |key: &String| match &range.after {
            Some(after) if range.reverse => key < after,
            Some(after) => key > after,
            None => true,
        };
        let found = self
            .entries
            .range(range.prefix.clone()..range.end())
            .filter(|(key, _)| after(key));
        let mut entries: Vec<Entry> = found.map(|(_, entry)| entry.clone()).collect();
        if range.reverse {
            entries.reverse();
        }
        let more = entries.len() > range.limit;
        entries.truncate(range.limit);
        Page {
            entries,
            revision: self.revision,
            more,
        }
    }

    /// Applies a transaction that [`Txn::validate`] let pass, or a campaign's.
    pub(super) fn apply(
        &mut self,
        txn: &Txn,
        writer: Option<Revision>,
    ) -> Result<Outcome, StoreError> {
        let revisions = |key: &str| {
            let entry = self.entries.get(key)?;
            Some((entry.create_revision, entry.mod_revision))
        };
        if !txn.compares.iter().all(|c| c.holds(revisions(c.key()))) {
            return Ok(Outcome::Conflict);
        }
        for op in &txn.ops {
            if let Op::Put {
                lease: Some(lease), ..
            } = op
                && !self.leases.contains_key(&lease.0)
            {
                return Err(StoreError::LeaseNotFound(lease.0));
            }
        }
        self.change(txn.ops.clone(), writer);
        Ok(Outcome::Committed(self.revision))
    }

    pub(super) fn grant(&mut self, ttl: Duration) -> LeaseId {
        self.granted += 1;
        let deadline = self.clock.now().saturating_add(ttl);
        self.leases.insert(self.granted, Lease { ttl, deadline });
        LeaseId(self.granted)
    }

    pub(super) fn keep_alive(&mut self, lease: LeaseId) -> Result<(), StoreError> {
        let now = self.clock.now();
        let kept = self.leases.get_mut(&lease.0);
        let kept = kept.ok_or(StoreError::LeaseNotFound(lease.0))?;
        kept.deadline = now.saturating_add(kept.ttl);
        Ok(())
    }

    pub(super) fn revoke(&mut self, lease: LeaseId) -> Result<(), StoreError> {
        if !self.leases.contains_key(&lease.0) {
            return Err(StoreError::LeaseNotFound(lease.0));
        }
        self.end(lease.0);
        Ok(())
    }

    /// Changes under a prefix from a revision on, and the revision to look from next.
    pub(super) fn log(
        &self,
        prefix: &str,
        from: Revision,
    ) -> Result<(Vec<Changes>, Revision), StoreError> {
        if from <= self.compacted && self.compacted > Revision(0) {
            return Err(StoreError::Compacted {
                oldest: self.compacted.next(),
            });
        }
        let under = |changes: &Changes| {
            let wanted = |change: &&Change| change.key().starts_with(prefix);
            let found: Vec<Change> = changes.changes.iter().filter(wanted).cloned().collect();
            (!found.is_empty()).then_some(Changes {
                revision: changes.revision,
                changes: found,
            })
        };
        let later = self.log.iter().filter(|changes| changes.revision >= from);
        Ok((
            later.filter_map(under).collect(),
            from.max(self.revision.next()),
        ))
    }

    pub(super) fn latest(&self) -> watch::Receiver<Revision> {
        self.latest.subscribe()
    }

    fn expire(&mut self) {
        let now = self.clock.now();
        let expired = self.leases.iter().filter(|(_, l)| l.deadline <= now);
        for id in expired.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.end(id);
        }
    }

    fn end(&mut self, lease: u64) {
        self.leases.remove(&lease);
        let keys = self.leased.iter().filter(|(_, of)| **of == lease);
        let deletes = keys.map(|(key, _)| Op::delete(key)).collect();
        self.change(deletes, None);
    }

    /// Makes the changes, as one revision if there are any.
    fn change(&mut self, ops: Vec<Op>, writer: Option<Revision>) {
        let leader = self.entries.get(LEADER_KEY).map(|entry| entry.mod_revision);
        let revision = self.revision.next();
        let mut changes = Vec::new();
        for op in ops {
            match op {
                Op::Put { key, value, lease } => {
                    self.leased.remove(&key);
                    if let Some(lease) = lease {
                        self.leased.insert(key.clone(), lease.0);
                    }
                    let before = self.entries.get(&key).cloned();
                    let entry = Entry {
                        key: key.clone(),
                        value,
                        create_revision: before.as_ref().map_or(revision, |b| b.create_revision),
                        mod_revision: revision,
                    };
                    self.entries.insert(key, entry.clone());
                    changes.push((before, Change::Put(entry)));
                }
                Op::Delete { key } => {
                    self.leased.remove(&key);
                    if let Some(before) = self.entries.remove(&key) {
                        changes.push((Some(before), Change::Delete { key }));
                    }
                }
            }
        }
        if changes.is_empty() {
            return;
        }
        self.revision = revision;
        if self.log.len() == HISTORY
            && let Some(oldest) = self.log.pop_front()
        {
            self.compacted = oldest.revision;
        }
        self.log.push_back(Changes {
            revision,
            changes: changes.iter().map(|(_, change)| change.clone()).collect(),
        });
        self.latest.send_replace(revision);
        if let Some(observer) = &mut self.observer {
            observer(&Applied {
                revision,
                writer,
                leader,
                changes: &changes,
                entries: &self.entries,
            });
        }
    }
}
