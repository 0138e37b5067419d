use std::sync::atomic::{AtomicU64, Ordering};

/// Told of bytes done and bytes in all.
type Report = Box<dyn Fn(u64, u64) + Send + Sync>;

/// Bytes done of a transfer, over all its files.
pub(super) struct Progress {
    report: Report,
    total: u64,
    done: AtomicU64,
    chunks: AtomicU64,
    moved: AtomicU64,
    moved_chunks: AtomicU64,
}

/// What a push or pull came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Bytes of all files.
    pub total_bytes: u64,
    /// Bytes that went over the network for them: compressed chunks, names of chunks, the manifest.
    pub moved_bytes: u64,
    /// Chunks of all files.
    pub chunks: u64,
    /// Chunks of which the bytes went over the network.
    pub moved_chunks: u64,
}

impl Moved {
    /// Bytes that did not have to move.
    pub fn saved_bytes(&self) -> u64 {
        self.total_bytes.saturating_sub(self.moved_bytes)
    }
}

impl Progress {
    pub(super) fn new(report: impl Fn(u64, u64) + Send + Sync + 'static, total: u64) -> Self {
        report(0, total);
        Self {
            report: Box::new(report),
            total,
            done: AtomicU64::new(0),
            chunks: AtomicU64::new(0),
            moved: AtomicU64::new(0),
            moved_chunks: AtomicU64::new(0),
        }
    }

    /// So many chunks of so many bytes are where they belong.
    pub(super) fn done(&self, chunks: u64, bytes: u64) {
        self.chunks.fetch_add(chunks, Ordering::Relaxed);
        let before = self.done.fetch_add(bytes, Ordering::Relaxed);
        // A folder that grew while it was pushed has more than was expected.
        (self.report)((before + bytes).min(self.total), self.total);
    }

    /// A message with the bytes of so many chunks went over the network.
    pub(super) fn moved(&self, chunks: usize, message: usize) {
        self.moved_chunks
            .fetch_add(chunks as u64, Ordering::Relaxed);
        self.moved.fetch_add(message as u64, Ordering::Relaxed);
    }

    pub(super) fn result(&self) -> Moved {
        Moved {
            total_bytes: self.total,
            moved_bytes: self.moved.load(Ordering::Relaxed),
            chunks: self.chunks.load(Ordering::Relaxed),
            moved_chunks: self.moved_chunks.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn bytes_add_up_and_what_moved_is_told_apart() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&seen);
        let report = move |done, total| sink.lock().expect("whole").push((done, total));
        let progress = Progress::new(report, 10);
        progress.done(2, 6);
        progress.moved(1, 3);
        progress.done(1, 5);
        assert_eq!(*seen.lock().expect("whole"), [(0, 10), (6, 10), (10, 10)]);
        let moved = progress.result();
        assert_eq!(
            (moved.chunks, moved.moved_chunks, moved.saved_bytes()),
            (3, 1, 7)
        );
    }
}
