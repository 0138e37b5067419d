use std::ops::Range;
use std::thread;

use crate::DataError;

/// Cuts `0..count` into a run for each of `threads`, does `work` on all of them at once, and puts the
/// results together in order; the first error, in order, if there is one.
pub(super) fn runs<T: Send>(
    count: usize,
    threads: usize,
    work: impl Fn(Range<usize>) -> Result<Vec<T>, DataError> + Sync,
) -> Result<Vec<T>, DataError> {
    let share = count.div_ceil(threads.max(1)).max(1);
    let parts: Vec<_> = thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = (0..count)
            .step_by(share)
            .map(|first| scope.spawn(move || work(first..count.min(first + share))))
            .collect();
        let joined = threads.into_iter().map(|thread| match thread.join() {
            Ok(part) => part,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        joined.collect()
    });
    let mut all = Vec::new();
    for part in parts {
        all.extend(part?);
    }
    Ok(all)
}
