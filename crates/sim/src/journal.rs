//! What was logged: the last of it for whoever looks into a failure, and a digest of all, by which two
//! runs of a seed are seen to be the same.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

/// Lines that are kept.
const KEPT: usize = 250;

/// Clones share the lines.
#[derive(Clone)]
pub(crate) struct Journal {
    lines: Arc<Mutex<Lines>>,
    /// Told as it comes.
    aloud: bool,
    /// A folder with another name in every run, which is left out.
    folder: String,
}

struct Lines {
    last: VecDeque<String>,
    digest: u64,
}

impl Journal {
    pub(crate) fn new(aloud: bool, folder: String) -> Self {
        Self {
            lines: Arc::new(Mutex::new(Lines {
                last: VecDeque::new(),
                digest: 0xcbf2_9ce4_8422_2325,
            })),
            aloud,
            folder,
        }
    }

    /// Adds to the digest and, if it is text, to the lines.
    pub(crate) fn digest(&self, bytes: &[u8]) {
        let mut lines = self.lock();
        for byte in bytes {
            // FNV-1a.
            lines.digest = (lines.digest ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    /// What all came to.
    pub(crate) fn result(&self) -> u64 {
        self.lock().digest
    }

    /// The last lines.
    pub(crate) fn last(&self) -> Vec<String> {
        self.lock().last.iter().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Lines> {
        // A line is whole, whatever panicked.
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl io::Write for Journal {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line).replace(&self.folder, "DIR");
        if self.aloud {
            eprint!("{text}");
        }
        self.digest(text.as_bytes());
        let mut lines = self.lock();
        if lines.last.len() == KEPT {
            lines.last.pop_front();
        }
        lines.last.push_back(text);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Journal {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// Simulated time since the start.
pub(crate) struct Elapsed(pub(crate) Instant);

impl FormatTime for Elapsed {
    fn format_time(&self, w: &mut Writer<'_>) -> fmt::Result {
        write!(w, "{:>9.3}", self.0.elapsed().as_secs_f64())
    }
}
