//! Leases that keep chunks from being swept: pure, told the time.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use crate::{Digest, RegistryError};

/// Most leases at once.
const MAX_LEASES: usize = 10_000;

/// Most chunks that all leases pin together: a terabyte and more of the largest.
const MAX_PINNED: usize = 1 << 20;

/// Which chunks are pinned, by which leases. Nothing of it outlives the process, so for the time of a
/// lease after the start everything counts as pinned.
#[derive(Debug)]
pub(crate) struct Pins {
    ttl: Duration,
    /// Until then everything is pinned.
    all_until: Duration,
    leases: HashMap<String, Lease>,
    /// No lease ends before.
    first_end: Duration,
    /// How many leases pin each chunk.
    counts: HashMap<Digest, u32>,
}

#[derive(Debug)]
struct Lease {
    until: Duration,
    chunks: HashSet<Digest>,
}

impl Pins {
    pub(crate) fn new(now: Duration, ttl: Duration) -> Self {
        Self {
            ttl,
            all_until: now + ttl,
            leases: HashMap::new(),
            first_end: Duration::ZERO,
            counts: HashMap::new(),
        }
    }

    /// Pins chunks under a lease, and renews it.
    pub(crate) fn pin(
        &mut self,
        now: Duration,
        lease: &str,
        chunks: impl IntoIterator<Item = Digest>,
    ) -> Result<(), RegistryError> {
        self.expire(now);
        if !self.leases.contains_key(lease) && self.leases.len() >= MAX_LEASES {
            return Err(RegistryError::Busy {
                what: "leases",
                limit: MAX_LEASES,
            });
        }
        let until = now + self.ttl;
        let entry = self
            .leases
            .entry(lease.to_owned())
            .or_insert_with(|| Lease {
                until,
                chunks: HashSet::new(),
            });
        entry.until = until;
        for digest in chunks {
            if entry.chunks.contains(&digest) {
                continue;
            }
            if self.counts.len() >= MAX_PINNED && !self.counts.contains_key(&digest) {
                return Err(RegistryError::Busy {
                    what: "pinned chunks",
                    limit: MAX_PINNED,
                });
            }
            entry.chunks.insert(digest);
            *self.counts.entry(digest).or_default() += 1;
        }
        Ok(())
    }

    /// Ends a lease.
    pub(crate) fn release(&mut self, lease: &str) {
        let Some(ended) = self.leases.remove(lease) else {
            return;
        };
        for digest in ended.chunks {
            if let Some(count) = self.counts.get_mut(&digest) {
                *count -= 1;
                if *count == 0 {
                    self.counts.remove(&digest);
                }
            }
        }
    }

    pub(crate) fn is_pinned(&mut self, now: Duration, digest: &Digest) -> bool {
        self.expire(now);
        now < self.all_until || self.counts.contains_key(digest)
    }

    /// Leases that have not ended.
    pub(crate) fn leases(&mut self, now: Duration) -> usize {
        self.expire(now);
        self.leases.len()
    }

    fn expire(&mut self, now: Duration) {
        if now < self.first_end {
            return;
        }
        let ended: Vec<String> = self
            .leases
            .iter()
            .filter(|(_, lease)| lease.until <= now)
            .map(|(name, _)| name.clone())
            .collect();
        for name in ended {
            self.release(&name);
        }
        let ends = self.leases.values().map(|lease| lease.until);
        self.first_end = ends.min().unwrap_or(now + self.ttl).min(now + self.ttl);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(10);

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn everything_is_pinned_for_a_leases_time_after_the_start() {
        let mut pins = Pins::new(at(5), TTL);
        let digest = Digest::of(b"x");
        assert!(pins.is_pinned(at(14), &digest));
        assert!(!pins.is_pinned(at(15), &digest));
    }

    #[test]
    fn a_chunk_is_pinned_while_any_lease_pins_it() {
        let mut pins = Pins::new(at(0), TTL);
        let (x, y) = (Digest::of(b"x"), Digest::of(b"y"));
        pins.pin(at(20), "a", [x, x]).expect("pins");
        pins.pin(at(25), "b", [x, y]).expect("pins");
        pins.pin(at(28), "a", []).expect("renews");
        assert!(pins.is_pinned(at(36), &x));
        assert!(!pins.is_pinned(at(36), &y));
        assert_eq!(pins.leases(at(36)), 1);
        pins.release("a");
        pins.release("a");
        assert!(!pins.is_pinned(at(36), &x));
        assert!(pins.counts.is_empty() && pins.leases.is_empty());
    }
}
