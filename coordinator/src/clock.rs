//! Time as the coordinator uses it: a steady clock for leases, the wall clock for what people read.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prost_types::Timestamp;
use tokio::time::Instant;

/// Milliseconds of a steady clock since the coordinator started. Never stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Millis(pub u64);

impl Millis {
    /// This time and a duration later, at most the end of time.
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(millis(duration)))
    }

    /// Time passed since an earlier time; zero if that is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// The coordinator's steady clock.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// A clock that starts now.
    pub fn start() -> Self {
        Self {
            start: Instant::now(),
        }
    }

    /// Time since the start.
    pub fn now(&self) -> Millis {
        Millis(millis(self.start.elapsed()))
    }
}

/// Milliseconds of the wall clock since 1970.
pub fn wall() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, millis)
}

/// A wall time in milliseconds, on the wire.
pub fn timestamp(wall: u64) -> Timestamp {
    Timestamp {
        seconds: i64::try_from(wall / 1000).unwrap_or(i64::MAX),
        // Below one thousand million, so it fits.
        nanos: (wall % 1000) as i32 * 1_000_000,
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wall_time_keeps_its_milliseconds_on_the_wire() {
        let wire = timestamp(1_700_000_000_123);
        assert_eq!((wire.seconds, wire.nanos), (1_700_000_000, 123_000_000));
    }

    #[test]
    fn spans_do_not_wrap() {
        assert_eq!(Millis(5).since(Millis(9)), Duration::ZERO);
        assert_eq!(
            Millis(u64::MAX).plus(Duration::from_secs(1)),
            Millis(u64::MAX)
        );
    }
}
