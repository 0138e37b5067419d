//! What a gang reports, and how it goes on the wire.

use espalier_proto::v1::session_request::Message;
use espalier_proto::v1::{
    FaultKind, LogLine, LogReport, MetricsReport, RankReport, RankState, RecoveryReport,
    StepMetrics, WarningReport,
};

use super::key::GangKey;
use crate::ipc::{Fault, Metrics, Recovered};

/// A report, before it has a number.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Report {
    /// A rank changed. Never dropped.
    Rank {
        rank: u32,
        seat: u64,
        status: RankStatus,
    },
    /// The first step after a recovery is done. Never dropped.
    Recovered(Recovered),
    /// For the job's feed. Never dropped.
    Warning { reason: String },
    /// Measurements of a step.
    Metrics(Box<Metrics>),
    /// Lines a rank wrote.
    Logs { rank: u32, lines: Vec<LogLine> },
}

/// How a rank stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RankStatus {
    /// A recruit can join.
    Ready,
    /// It has lost its peers and waits for others.
    Waiting { reason: String },
    /// It has met its peers.
    Running { total_steps: u64 },
    /// It runs no further step, and what was done is durable.
    Halted,
    /// It has done all its work.
    Done,
    /// It ended before.
    Failed { fault: Fault, reason: String },
}

impl Report {
    /// Whether the report may be given up when the coordinator stays away for long.
    pub(crate) fn droppable(&self) -> bool {
        matches!(self, Self::Metrics(_) | Self::Logs { .. })
    }

    /// Bytes it takes in memory, roughly.
    pub(crate) fn weight(&self) -> usize {
        const OVERHEAD: usize = 128;
        OVERHEAD
            + match self {
                Self::Rank { .. } | Self::Recovered(_) => 0,
                Self::Warning { reason } => reason.len(),
                Self::Metrics(metrics) => 8 * metrics.gate_rates.len(),
                Self::Logs { lines, .. } => lines.iter().map(|line| 32 + line.text.len()).sum(),
            }
    }

    /// The message of this report under a number.
    pub(crate) fn message(&self, sequence: u64, gang: &GangKey) -> Message {
        let GangKey { job_id, generation } = gang.clone();
        match self.clone() {
            Self::Rank { rank, seat, status } => {
                Message::RankReport(rank_report(sequence, gang, (rank, seat), status))
            }
            Self::Recovered(recovered) => Message::Recovery(RecoveryReport {
                sequence,
                job_id,
                generation: recovered.generation,
                step: recovered.step,
                healed: recovered.healed,
                meet_ms: recovered.meet_ms,
                heal_ms: recovered.heal_ms,
                step_ms: recovered.step_ms,
            }),
            Self::Warning { reason } => Message::Warning(WarningReport {
                sequence,
                job_id,
                generation,
                reason,
            }),
            Self::Metrics(metrics) => Message::Metrics(MetricsReport {
                sequence,
                job_id,
                metrics: Some(step_metrics(*metrics, generation)),
            }),
            Self::Logs { rank, lines } => Message::Logs(LogReport {
                sequence,
                job_id,
                generation,
                rank,
                lines,
            }),
        }
    }
}

fn rank_report(
    sequence: u64,
    gang: &GangKey,
    (rank, seat): (u32, u64),
    status: RankStatus,
) -> RankReport {
    let mut report = RankReport {
        sequence,
        job_id: gang.job_id.clone(),
        generation: gang.generation,
        rank,
        seat,
        ..RankReport::default()
    };
    match status {
        RankStatus::Ready => report.set_state(RankState::Ready),
        RankStatus::Waiting { reason } => {
            report.set_state(RankState::Waiting);
            report.reason = reason;
        }
        RankStatus::Running { total_steps } => {
            report.set_state(RankState::Running);
            report.total_steps = total_steps;
        }
        RankStatus::Halted => report.set_state(RankState::Halted),
        RankStatus::Done => report.set_state(RankState::Done),
        RankStatus::Failed { fault, reason } => {
            report.set_state(RankState::Failed);
            report.set_fault(match fault {
                Fault::User => FaultKind::User,
                Fault::Infrastructure => FaultKind::Infrastructure,
            });
            report.reason = reason;
        }
    }
    report
}

fn step_metrics(metrics: Metrics, generation: u64) -> StepMetrics {
    StepMetrics {
        generation,
        step: metrics.step,
        total_steps: metrics.total_steps,
        stage: metrics.stage,
        loss: metrics.loss,
        cross_entropy: metrics.cross_entropy,
        distillation: metrics.distillation,
        resource: metrics.resource,
        accuracy: metrics.accuracy,
        macs_soft: metrics.macs_soft,
        macs_hard: metrics.macs_hard,
        lr: metrics.lr,
        grad_norm: metrics.grad_norm,
        samples_per_second: metrics.samples_per_second,
        seconds_per_step: metrics.seconds_per_step,
        gate_rates: metrics.gate_rates,
        eval_accuracy: metrics.eval_accuracy,
    }
}
