//! A job's progress on stderr: a bar on a terminal, a line now and then elsewhere.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use espalier_proto::v1::{JobEvent, JobEventKind, StepMetrics};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::job::state_name;

/// Time between two lines where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// Shows the feed of one job.
pub(crate) struct Progress {
    bar: ProgressBar,
    terminal: bool,
    last_line: Option<Instant>,
    eval_accuracy: Option<f64>,
}

impl Progress {
    /// Nothing is shown until the first metrics.
    pub(crate) fn new() -> Self {
        let terminal = std::io::stderr().is_terminal();
        let target = if terminal {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let style = ProgressStyle::with_template("{bar:24} {pos}/{len} {wide_msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::with_draw_target(None, target).with_style(style);
        Self {
            bar,
            terminal,
            last_line: None,
            eval_accuracy: None,
        }
    }

    /// A line that stays.
    pub(crate) fn note(&self, text: &str) {
        if self.terminal {
            self.bar.println(text);
        } else {
            eprintln!("{text}");
        }
    }

    /// Shows an event.
    pub(crate) fn event(&mut self, event: &JobEvent) {
        if let Some(text) = describe(event) {
            self.note(&text);
        }
    }

    /// Shows a step.
    pub(crate) fn metrics(&mut self, metrics: &StepMetrics) {
        self.eval_accuracy = metrics.eval_accuracy.or(self.eval_accuracy);
        self.bar.set_length(metrics.total_steps);
        self.bar.set_position(metrics.step);
        let text = line(metrics, self.eval_accuracy);
        let last_step = metrics.step == metrics.total_steps;
        let due = self.last_line.is_none_or(|t| t.elapsed() >= LINE_INTERVAL) || last_step;
        if !self.terminal && due {
            eprintln!("step {}/{}  {text}", metrics.step, metrics.total_steps);
            self.last_line = Some(Instant::now());
        }
        self.bar.set_message(text);
    }

    /// Leaves the last state of the bar.
    pub(crate) fn finish(self) {
        self.bar.abandon();
    }
}

/// Figures of a step in one line.
fn line(metrics: &StepMetrics, eval_accuracy: Option<f64>) -> String {
    let remaining = metrics.total_steps.saturating_sub(metrics.step);
    let mut text = format!(
        "{}  loss {:.3}  accuracy {:.3}",
        metrics.stage, metrics.loss, metrics.accuracy
    );
    if let Some(accuracy) = eval_accuracy {
        text.push_str(&format!(" (held out {accuracy:.3})"));
    }
    text.push_str(&format!(
        "  MACs {:.3} soft {:.3} hard  {:.0} samples/s",
        metrics.macs_soft, metrics.macs_hard, metrics.samples_per_second
    ));
    if let Some(eta) = eta(remaining, metrics) {
        text.push_str(&format!("  ETA {eta}"));
    }
    text
}

/// Minutes and seconds left at the present rate; none before a rate is known.
fn eta(remaining: u64, metrics: &StepMetrics) -> Option<String> {
    let per_step = metrics.seconds_per_step;
    (per_step > 0.0).then(|| {
        let seconds = (remaining as f64 * per_step).round() as u64;
        format!("{}:{:02}", seconds / 60, seconds % 60)
    })
}

fn describe(event: &JobEvent) -> Option<String> {
    let reason = if event.reason.is_empty() {
        String::new()
    } else {
        format!(": {}", event.reason)
    };
    match event.kind() {
        JobEventKind::StateChanged => Some(format!("{}{reason}", state_name(event.state()))),
        JobEventKind::Placed => Some(format!(
            "generation {} on {}{reason}",
            event.generation,
            event.worker_ids.join(", ")
        )),
        JobEventKind::Revoked => Some(format!("generation {} revoked{reason}", event.generation)),
        JobEventKind::Published => Some(format!("published {}", event.digest)),
        JobEventKind::Warning => Some(format!("warning{reason}")),
        JobEventKind::Recovered => Some(event.reason.clone()),
        JobEventKind::Unspecified | JobEventKind::Submitted | JobEventKind::StepsCommitted => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_one_line_with_its_eta() {
        let metrics = StepMetrics {
            step: 100,
            total_steps: 220,
            stage: "search".to_owned(),
            loss: 1.25,
            accuracy: 0.5,
            macs_soft: 0.71,
            macs_hard: 0.733,
            samples_per_second: 1900.4,
            seconds_per_step: 0.5,
            ..Default::default()
        };
        assert_eq!(
            line(&metrics, Some(0.612)),
            "search  loss 1.250  accuracy 0.500 (held out 0.612)  \
             MACs 0.710 soft 0.733 hard  1900 samples/s  ETA 1:00"
        );
    }

    #[test]
    fn events_say_why() {
        let event = JobEvent {
            kind: JobEventKind::Revoked.into(),
            generation: 7,
            reason: "worker w1 was lost".to_owned(),
            ..Default::default()
        };
        assert_eq!(
            describe(&event).as_deref(),
            Some("generation 7 revoked: worker w1 was lost")
        );
    }
}
