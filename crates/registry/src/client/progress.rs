use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes done of a transfer, over all its files.
#[derive(Clone)]
pub(super) struct Progress(Arc<Inner>);

struct Inner {
    report: Box<dyn Fn(u64, u64) + Send + Sync>,
    total: u64,
    done: AtomicU64,
}

/// Bytes done of one file: a try that starts over takes its own back.
pub(super) struct FileProgress {
    progress: Progress,
    done: u64,
}

impl Progress {
    pub(super) fn new(report: impl Fn(u64, u64) + Send + Sync + 'static, total: u64) -> Self {
        report(0, total);
        Self(Arc::new(Inner {
            report: Box::new(report),
            total,
            done: AtomicU64::new(0),
        }))
    }

    pub(super) fn file(&self) -> FileProgress {
        FileProgress {
            progress: self.clone(),
            done: 0,
        }
    }
}

impl FileProgress {
    /// The first `done` bytes of the file are done.
    pub(super) fn set(&mut self, done: u64) {
        let inner = &self.progress.0;
        let before = inner
            .done
            .fetch_add(done.wrapping_sub(self.done), Ordering::Relaxed);
        let after = before.wrapping_add(done.wrapping_sub(self.done));
        self.done = done;
        (inner.report)(after, inner.total);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn files_add_up_and_a_new_try_takes_back_its_own() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&seen);
        let report = move |done, total| sink.lock().expect("whole").push((done, total));
        let progress = Progress::new(report, 10);
        let (mut a, mut b) = (progress.file(), progress.file());
        a.set(4);
        b.set(3);
        a.set(0);
        a.set(7);
        let expected = [(0, 10), (4, 10), (7, 10), (3, 10), (10, 10)];
        assert_eq!(*seen.lock().expect("whole"), expected);
    }
}
