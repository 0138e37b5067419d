//! Carries what a rank writes to stdout and stderr into log reports.

use std::time::{Duration, SystemTime};

use espalier_proto::v1::LogLine;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::lines::Lines;
use super::throttle::{Throttle, Verdict};

/// Lines in one report.
const BATCH: usize = 64;
/// Longest time a line waits for others to share its report.
const LINGER: Duration = Duration::from_millis(200);
/// Lines read ahead; a rank that writes faster waits.
const QUEUE: usize = 256;

/// Lines of one rank on their way into reports.
#[derive(Clone, Debug)]
pub(crate) struct LineSender(mpsc::Sender<LogLine>);

/// The other end of a [`LineSender`].
pub(crate) type LineReceiver = mpsc::Receiver<LogLine>;

/// A bounded queue of lines.
pub(crate) fn queue() -> (LineSender, LineReceiver) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    (LineSender(sender), receiver)
}

impl LineSender {
    /// Reads a pipe to its end, and gives its last line. A pipe that fails counts as ended.
    pub(crate) async fn read(self, mut pipe: impl AsyncRead + Unpin) -> Option<String> {
        let mut throttle = Throttle::new(Duration::ZERO);
        let start = Instant::now();
        let mut lines = Lines::default();
        let mut buffer = vec![0; 8 << 10];
        let mut last = None;
        loop {
            let size = pipe.read(&mut buffer).await.unwrap_or(0);
            let ended = match size {
                0 => lines.finish().into_iter().collect(),
                size => lines.push(&buffer[..size]),
            };
            for text in ended {
                let verdict = throttle.line(start.elapsed());
                if !text.trim().is_empty() {
                    last = Some(text.clone());
                }
                self.send(text, verdict).await;
            }
            if size == 0 {
                return last;
            }
        }
    }

    /// Nobody listens once the gang is being removed; the line is of no use then.
    async fn send(&self, text: String, verdict: Verdict) {
        let Verdict::Send { dropped } = verdict else {
            return;
        };
        if dropped > 0 {
            let note = format!("[worker] {dropped} lines were dropped: the rank writes too fast");
            let _ = self.0.send(line(note)).await;
        }
        let _ = self.0.send(line(text)).await;
    }
}

/// Gathers lines into batches until every sender is gone.
pub(crate) async fn batch(mut lines: LineReceiver, report: impl Fn(Vec<LogLine>)) {
    while let Some(first) = lines.recv().await {
        let mut batch = vec![first];
        let deadline = Instant::now() + LINGER;
        while batch.len() < BATCH
            && let Ok(Some(line)) = timeout_at(deadline, lines.recv()).await
        {
            batch.push(line);
        }
        report(batch);
    }
}

fn line(text: String) -> LogLine {
    LogLine {
        time: Some(SystemTime::now().into()),
        text,
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[tokio::test]
    async fn every_line_arrives_in_order_and_the_last_is_known() {
        let text: String = (0..200).map(|n| format!("line {n}\n")).collect();
        let (sender, receiver) = queue();
        let reports = RefCell::new(Vec::new());
        let (last, ()) = tokio::join!(
            sender.read(text.as_bytes()),
            batch(receiver, |lines| reports.borrow_mut().push(lines))
        );
        assert_eq!(last.as_deref(), Some("line 199"));
        let mut texts = Vec::new();
        for lines in reports.into_inner() {
            assert!(lines.len() <= BATCH);
            texts.extend(lines.into_iter().map(|line| line.text));
        }
        let expected: Vec<String> = (0..200).map(|n| format!("line {n}")).collect();
        assert_eq!(texts, expected);
    }
}
