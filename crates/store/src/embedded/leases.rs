use std::collections::HashMap;
use std::time::Duration;

/// When leases expire. In memory only: keeping a lease alive writes nothing.
#[derive(Debug, Default)]
pub(super) struct Leases(HashMap<u64, Lease>);

#[derive(Debug)]
struct Lease {
    ttl: Duration,
    deadline: Duration,
}

impl Leases {
    pub(super) fn start(&mut self, id: u64, ttl: Duration, now: Duration) {
        let deadline = now.saturating_add(ttl);
        self.0.insert(id, Lease { ttl, deadline });
    }

    /// Renews the lease; false when it has expired or is not there.
    pub(super) fn keep_alive(&mut self, id: u64, now: Duration) -> bool {
        match self.0.get_mut(&id) {
            Some(lease) if now < lease.deadline => {
                lease.deadline = now.saturating_add(lease.ttl);
                true
            }
            _ => false,
        }
    }

    pub(super) fn end(&mut self, id: u64) {
        self.0.remove(&id);
    }

    /// Leases that have expired, in ascending order. Time does not go back, so they stay expired.
    pub(super) fn expired(&self, now: Duration) -> Vec<u64> {
        let mut ids: Vec<u64> = self
            .0
            .iter()
            .filter(|(_, lease)| lease.deadline <= now)
            .map(|(id, _)| *id)
            .collect();
        ids.sort_unstable();
        ids
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_lease_expires_at_its_deadline_and_then_cannot_be_kept() {
        let mut leases = Leases::default();
        leases.start(1, SECOND * 5, SECOND);
        leases.start(2, SECOND * 2, SECOND);
        assert!(leases.expired(SECOND * 2).is_empty());
        assert!(leases.keep_alive(2, SECOND * 2));
        assert!(leases.expired(SECOND * 3).is_empty());
        assert_eq!(leases.expired(SECOND * 4), [2]);
        assert!(!leases.keep_alive(2, SECOND * 4));
        assert_eq!(leases.expired(SECOND * 6), [1, 2]);
        leases.end(1);
        assert!(!leases.keep_alive(1, SECOND * 2));
    }
}
