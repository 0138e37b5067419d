//! Marks of commits under way. A commit whose answer was lost is found by the mark it left; and since
//! each takes a slot for itself and compares the slot to be as it was, it cannot be made twice.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::{Revision, StoreError};

/// Most commits under way at a time; further ones wait.
const COMMITS: usize = 128;

/// The slots of one term.
#[derive(Debug)]
pub(crate) struct Slots {
    permits: Semaphore,
    free: Mutex<Vec<(u64, Revision)>>,
    used: AtomicU64,
    marks: AtomicU64,
}

impl Default for Slots {
    fn default() -> Self {
        Self {
            permits: Semaphore::new(COMMITS),
            free: Mutex::default(),
            used: AtomicU64::new(0),
            marks: AtomicU64::new(0),
        }
    }
}

/// A slot of a commit under way. One that is dropped instead of freed is never used again: what lies
/// in it is not known.
pub(super) struct Slot<'a> {
    slots: &'a Slots,
    /// Number in its term.
    pub(super) number: u64,
    /// Mod revision of its key; 0 before the first mark.
    pub(super) last: Revision,
    /// What this commit leaves in it: unique in the term.
    pub(super) mark: u64,
    _permit: SemaphorePermit<'a>,
}

impl Slots {
    pub(super) async fn take(&self) -> Result<Slot<'_>, StoreError> {
        // The semaphore is never closed.
        let permit = self
            .permits
            .acquire()
            .await
            .map_err(|_| StoreError::Closed)?;
        let free = self.free().pop();
        let (number, last) = free.unwrap_or_else(|| {
            let number = self.used.fetch_add(1, Ordering::Relaxed);
            (number, Revision(0))
        });
        Ok(Slot {
            slots: self,
            number,
            last,
            mark: self.marks.fetch_add(1, Ordering::Relaxed),
            _permit: permit,
        })
    }

    /// Each push and pop is whole, whatever happened to the thread that held it.
    fn free(&self) -> MutexGuard<'_, Vec<(u64, Revision)>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot<'_> {
    /// Gives the slot to the next commit; its key's mod revision is `last`.
    pub(super) fn free(self, last: Revision) {
        self.slots.free().push((self.number, last));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn slots_are_used_again_unless_what_lies_in_them_is_unknown() {
        let slots = Slots::default();
        let first = slots.take().await.unwrap();
        let second = slots.take().await.unwrap();
        assert_ne!(first.number, second.number);
        assert_ne!(first.mark, second.mark);
        let (number, mark) = (first.number, first.mark);
        first.free(Revision(9));
        drop(second);
        let third = slots.take().await.unwrap();
        assert_eq!((third.number, third.last), (number, Revision(9)));
        assert!(third.mark > mark);
        let fourth = slots.take().await.unwrap();
        assert_eq!((fourth.number, fourth.last), (2, Revision(0)));
    }
}
