use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The times by which the registry decides.
pub trait Clock: Send + Sync + 'static {
    /// Milliseconds since 1970, for what outlives the process.
    fn wall_ms(&self) -> i64;

    /// Time since an origin of its own, never going back, for what does not.
    fn monotonic(&self) -> Duration;
}

/// The machine's clocks.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock(Instant);

impl Default for SystemClock {
    fn default() -> Self {
        Self(Instant::now())
    }
}

impl Clock for SystemClock {
    fn wall_ms(&self) -> i64 {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    }

    fn monotonic(&self) -> Duration {
        self.0.elapsed()
    }
}
