//! Bounds how many log lines a rank may send.

use std::time::Duration;

/// Lines that may come at once.
const BURST: f64 = 2000.0;
/// Lines a second in the long run.
const RATE: f64 = 200.0;

/// A token bucket. Time is what has passed since some fixed moment.
#[derive(Debug)]
pub(crate) struct Throttle {
    tokens: f64,
    last: Duration,
    dropped: u64,
}

/// What becomes of a line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is sent, after a note about this many that were not.
    Send { dropped: u64 },
    /// It is dropped.
    Drop,
}

impl Throttle {
    pub(crate) fn new(now: Duration) -> Self {
        Self {
            tokens: BURST,
            last: now,
            dropped: 0,
        }
    }

    pub(crate) fn line(&mut self, now: Duration) -> Verdict {
        let passed = now.saturating_sub(self.last).as_secs_f64();
        self.tokens = (self.tokens + passed * RATE).min(BURST);
        self.last = now;
        if self.tokens < 1.0 {
            self.dropped += 1;
            return Verdict::Drop;
        }
        self.tokens -= 1.0;
        Verdict::Send {
            dropped: std::mem::take(&mut self.dropped),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_a_flood_does_not_and_what_was_lost_is_told() {
        let now = Duration::from_secs(5);
        let mut throttle = Throttle::new(now);
        let sent = (0..5000)
            .filter(|_| throttle.line(now) != Verdict::Drop)
            .count();
        assert_eq!(sent, 2000);
        let later = now + Duration::from_secs(1);
        assert_eq!(throttle.line(later), Verdict::Send { dropped: 3000 });
        assert_eq!(throttle.line(later), Verdict::Send { dropped: 0 });
    }
}
