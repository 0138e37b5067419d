use std::sync::Mutex;
use std::time::{Duration, Instant};

/// The time by which leases expire: since an origin of its own, never going back.
pub trait Clock: Send + Sync {
    /// Time since the origin.
    fn now(&self) -> Duration;
}

/// The machine's monotonic clock.
#[derive(Debug)]
pub struct MonotonicClock(Instant);

impl Default for MonotonicClock {
    fn default() -> Self {
        Self(Instant::now())
    }
}

impl Clock for MonotonicClock {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}

/// A clock that stands still until it is moved, for tests.
#[derive(Debug, Default)]
pub struct ManualClock(Mutex<Duration>);

impl ManualClock {
    /// Moves the clock on.
    pub fn advance(&self, by: Duration) {
        *self.time() += by;
    }

    fn time(&self) -> std::sync::MutexGuard<'_, Duration> {
        // A Duration is whole whatever happened to the thread that held it.
        self.0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Duration {
        *self.time()
    }
}
