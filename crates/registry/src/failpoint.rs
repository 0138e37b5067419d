//! Points between two durable steps at which a test ends the process, as `kill -9` would.

/// Ends the process here if `ESPALIER_ABORT_AT` says so: it is the number of points to pass before.
/// Nothing in a release build.
#[inline]
pub(crate) fn reach(_point: &'static str) {
    #[cfg(debug_assertions)]
    armed::reach(_point);
}

#[cfg(debug_assertions)]
mod armed {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicI64, Ordering};

    /// Points left to pass; below zero when none was asked for.
    static LEFT: OnceLock<AtomicI64> = OnceLock::new();

    pub(super) fn reach(point: &'static str) {
        let left = LEFT.get_or_init(|| {
            let asked = std::env::var("ESPALIER_ABORT_AT").ok();
            AtomicI64::new(asked.and_then(|text| text.parse().ok()).unwrap_or(-1))
        });
        if left.load(Ordering::Relaxed) < 0 {
            return;
        }
        if left.fetch_sub(1, Ordering::Relaxed) == 0 {
            eprintln!("aborted at {point}");
            std::process::abort();
        }
    }
}
