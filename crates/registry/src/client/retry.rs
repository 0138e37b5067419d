//! When a call is made again, and after how long.

use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// Most tries of a call, or of a transfer that does not get on.
pub(super) const MAX_TRIES: u32 = 8;

const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(3);

/// Whether a call that failed so may succeed when it is made again.
pub(crate) fn is_transient(status: &Status) -> bool {
    match status.code() {
        // UNKNOWN is what a stream cut by a lost keep-alive ends with.
        Code::Unavailable | Code::Unknown | Code::DeadlineExceeded | Code::Cancelled => true,
        _ => status.get_details_retry_info().is_some(),
    }
}

/// How long to wait after `failures` (from 1): doubling, half of it by chance so that clients that
/// failed together do not come back together, and never less than the server asked for.
pub(super) fn wait_after(failures: u32, asked: Option<Duration>, chance: u64) -> Duration {
    let doubled = FIRST_WAIT.saturating_mul(1 << failures.clamp(1, 16).saturating_sub(1));
    let half = doubled.min(LONGEST_WAIT) / 2;
    let part = (chance % 1024) as u32;
    let wait = half + half * part / 1024;
    wait.max(asked.unwrap_or_default().min(LONGEST_WAIT))
}

/// Waits before the next try.
pub(super) async fn pause(failures: u32, status: &Status) {
    let asked = status
        .get_details_retry_info()
        .and_then(|info| info.retry_delay);
    let chance = uuid::Uuid::new_v4().as_u64_pair().0;
    tokio::time::sleep(wait_after(failures, asked, chance)).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_bound_and_vary_by_half() {
        let ms = Duration::from_millis;
        assert_eq!(wait_after(1, None, 0), ms(50));
        assert_eq!(wait_after(3, None, 0), ms(200));
        assert_eq!(wait_after(3, None, 512), ms(300));
        assert_eq!(wait_after(100, None, 0), ms(1500));
        for chance in [0, 1, 1023, u64::MAX] {
            assert!(wait_after(9, None, chance) <= LONGEST_WAIT);
        }
    }

    #[test]
    fn the_servers_wish_is_heard_within_the_bound() {
        let ms = Duration::from_millis;
        assert_eq!(wait_after(1, Some(ms(500)), 0), ms(500));
        assert_eq!(wait_after(1, Some(ms(60_000)), 0), LONGEST_WAIT);
    }
}
