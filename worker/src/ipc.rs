//! Messages between the agent and its ranks: one JSON document per line over a Unix socket.
//!
//! The rank connects and says [`FromRank::Hello`]; the agent answers with [`ToRank::Start`]. From
//! then on each side writes when it has something to say. A rank belongs to one group of ranks after
//! another: each [`ToRank::Group`] ends the one before. The end of the stream means that the other
//! side is gone.

use std::io::{BufRead, Read as _, Write};
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use thiserror::Error;

/// Longest line, in bytes, its end included.
pub const MAX_LINE: usize = 1 << 20;

/// From the agent to a rank.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToRank {
    /// First message: what to do.
    Start(Start),
    /// Whom to train with from now on.
    Group(Group),
    /// Where the ranks of a group meet; only when world_size > 1.
    Rendezvous {
        /// Generation of the group.
        generation: u64,
        /// host:port at which rank 0 listens.
        address: String,
    },
    /// The gang is about to leave: rank 0 runs no further step, hands over what was done, and says
    /// [`FromRank::Halted`].
    Halt,
    /// The checkpoint handed over for this step is durable.
    Stored {
        /// Step of the checkpoint.
        step: u64,
        /// Its identity in the registry.
        digest: String,
    },
}

/// What a rank is to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// The job.
    pub job_id: String,
    /// The job file (TOML).
    pub spec_toml: String,
    /// Folder of the job's ranks on this worker; removed when all have ended.
    pub run_dir: PathBuf,
    /// Host at which the other workers reach this rank.
    pub rendezvous_host: String,
    /// Folder of the training checkpoint to go on from.
    pub resume: Option<PathBuf>,
    /// Folder of the dense checkpoint named by `model.init.checkpoint`.
    pub init: Option<PathBuf>,
    /// Folder of the teacher named by `train.distillation.teacher`.
    pub teacher: Option<PathBuf>,
}

/// The ranks of a generation, and this one's place among them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Generation of the gang.
    pub generation: u64,
    /// The rank, 0-based.
    pub rank: u32,
    /// Ranks in the gang.
    pub world_size: u32,
    /// Last step that is durable; 0 when starting anew.
    pub committed_step: u64,
    /// How it comes about.
    pub formation: Formation,
    /// Why, in words.
    pub reason: String,
}

/// How a group comes about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Formation {
    /// All start from the same checkpoint, or from nothing.
    Fresh,
    /// Part of the last group was lost: what is under way in it is given up at once.
    Survivors,
    /// Others join, or some have to go: the last group is left after the step that is under way.
    Planned,
}

/// From a rank to the agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FromRank {
    /// First message.
    Hello {
        /// Which seat this connection belongs to.
        seat: u64,
    },
    /// All that is needed to join a group is there.
    Ready,
    /// Rank 0 listens for its peers; only when world_size > 1.
    RendezvousReady {
        /// Generation of the group.
        generation: u64,
        /// host:port.
        address: String,
    },
    /// The rank has met its peers, has the same state as they, and steps.
    Running {
        /// Generation of the group.
        generation: u64,
        /// Steps of the whole job.
        total_steps: u64,
    },
    /// The rank lost its peers; it keeps its state and waits for another group.
    Waiting {
        /// Generation of the group that failed.
        generation: u64,
        /// What it saw.
        reason: String,
    },
    /// All steps that were done are durable, and no further one is run in this group; rank 0 only.
    Halted {
        /// Generation of the group.
        generation: u64,
    },
    /// The first step of a group of survivors is done; rank 0 only.
    Recovered(Recovered),
    /// How far the rank is; a few times a second, whatever it does.
    Progress(Progress),
    /// Measurements of a step; rank 0 only.
    Metrics(Metrics),
    /// A finished, fsynced checkpoint folder that the agent now owns; rank 0 only.
    Checkpoint {
        /// Last step in it.
        step: u64,
        /// The folder.
        dir: PathBuf,
        /// What it is.
        kind: CheckpointKind,
    },
    /// Something people should know.
    Warning {
        /// What, in words.
        reason: String,
    },
    /// The rank cannot go on and exits.
    Failed {
        /// Whose fault.
        fault: Fault,
        /// What went wrong and where.
        reason: String,
    },
    /// All is done; the rank exits.
    Done,
}

/// How a group of survivors came to its first step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovered {
    /// Generation of the group.
    pub generation: u64,
    /// Highest step that any rank had done.
    pub step: u64,
    /// Ranks that were brought to it.
    pub healed: u32,
    /// From the order of the group until all ranks had met, in milliseconds.
    pub meet_ms: u64,
    /// For agreeing on the step and healing, in milliseconds.
    pub heal_ms: u64,
    /// For the next step, in milliseconds.
    pub step_ms: u64,
}

/// How far a rank is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Generation of the group it is in.
    pub generation: u64,
    /// Steps that are done.
    pub step: u64,
    /// Collective operations that it has entered in the group.
    pub operations: u64,
    /// What it does.
    pub activity: Activity,
    /// For how long, in milliseconds.
    pub for_ms: u64,
    /// Median wall time of its last steps, in milliseconds; 0 before the first.
    pub step_ms: f64,
    /// Median of its own work on a micro-batch in these steps, waits left out, in milliseconds; 0 before
    /// the first.
    pub work_ms: f64,
}

/// What a rank does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activity {
    /// Its part of a step.
    #[default]
    Working,
    /// It is in a collective.
    Waiting,
    /// What it alone does: measuring, checkpoints, publishing.
    Aside,
}

/// What a checkpoint folder holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckpointKind {
    /// The state of training, to go on from.
    Training,
    /// The finished model.
    Model,
}

/// Whose fault a failure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// The job asks for what cannot work: not tried again.
    User,
    /// A process, a host or a link: tried again.
    Infrastructure,
}

/// Measurements of one step, global over all ranks. Fields as in `espalier.v1.StepMetrics`; a
/// number that is not finite arrives as NaN, because JSON has no other.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Step in the job, from 1.
    pub step: u64,
    /// Steps of the whole job.
    pub total_steps: u64,
    /// "search", "tune" or "dense".
    pub stage: String,
    /// Total loss.
    #[serde(deserialize_with = "number")]
    pub loss: f64,
    /// Cross-entropy.
    #[serde(deserialize_with = "number")]
    pub cross_entropy: f64,
    /// Distillation loss, before its weight.
    #[serde(deserialize_with = "number")]
    pub distillation: f64,
    /// Resource loss, before gamma.
    #[serde(deserialize_with = "number")]
    pub resource: f64,
    /// Share of training samples classified right in this step.
    #[serde(deserialize_with = "number")]
    pub accuracy: f64,
    /// F/F_full in expectation.
    #[serde(deserialize_with = "number")]
    pub macs_soft: f64,
    /// F/F_full with hard choices and decisions.
    #[serde(deserialize_with = "number")]
    pub macs_hard: f64,
    /// Learning rate of the weights.
    #[serde(deserialize_with = "number")]
    pub lr: f64,
    /// Norm of the whole gradient before clipping.
    #[serde(deserialize_with = "number")]
    pub grad_norm: f64,
    /// Samples a second over the steps since the last record.
    #[serde(deserialize_with = "number")]
    pub samples_per_second: f64,
    /// Wall time of a step over the steps since the last record.
    #[serde(deserialize_with = "number")]
    pub seconds_per_step: f64,
    /// Rate of open gates, MHSA and FFN of each block in turn; 1 where there is no gate.
    #[serde(deserialize_with = "numbers")]
    pub gate_rates: Vec<f64>,
    /// Accuracy on the calibration split, where it was measured at this step.
    pub eval_accuracy: Option<f64>,
}

fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

fn numbers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<f64>, D::Error> {
    let values: Vec<Option<f64>> = Deserialize::deserialize(deserializer)?;
    Ok(values
        .into_iter()
        .map(|value| value.unwrap_or(f64::NAN))
        .collect())
}

/// Why a message could not be exchanged.
#[derive(Debug, Error)]
pub enum IpcError {
    /// The line is longer than [`MAX_LINE`].
    #[error("message of {size} bytes is over the limit of {MAX_LINE}")]
    TooLong {
        /// Bytes of the line, or of the part read.
        size: usize,
    },
    /// The stream ended in the middle of a line.
    #[error("the connection ended in the middle of a message")]
    Truncated,
    /// The line is not a message.
    #[error("not a message of this protocol: {0}")]
    Malformed(#[source] serde_json::Error),
    /// The socket failed.
    #[error("the connection failed: {0}")]
    Io(#[from] std::io::Error),
}

/// A message as a line, its end included.
///
/// # Errors
/// [`IpcError::TooLong`] when the line would be over [`MAX_LINE`].
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, IpcError> {
    let mut line = serde_json::to_vec(message).map_err(IpcError::Malformed)?;
    line.push(b'\n');
    if line.len() > MAX_LINE {
        return Err(IpcError::TooLong { size: line.len() });
    }
    Ok(line)
}

/// The message in a line; `None` for the end of the stream (an empty slice).
///
/// # Errors
/// When the line has no end, is too long or holds no message.
pub fn decode<T: DeserializeOwned>(line: &[u8]) -> Result<Option<T>, IpcError> {
    match line {
        [] => Ok(None),
        [text @ .., b'\n'] => serde_json::from_slice(text)
            .map(Some)
            .map_err(IpcError::Malformed),
        _ if line.len() >= MAX_LINE => Err(IpcError::TooLong { size: line.len() }),
        _ => Err(IpcError::Truncated),
    }
}

/// Writes a message, blocking.
///
/// # Errors
/// When the message is too long or the socket fails.
pub fn write<T: Serialize>(writer: &mut impl Write, message: &T) -> Result<(), IpcError> {
    writer.write_all(&encode(message)?)?;
    Ok(writer.flush()?)
}

/// Reads the next message, blocking; `None` at the end of the stream.
///
/// # Errors
/// When the socket fails, or what it carries is not a message.
pub fn read<T: DeserializeOwned>(reader: &mut impl BufRead) -> Result<Option<T>, IpcError> {
    let mut line = Vec::new();
    reader.take(MAX_LINE as u64).read_until(b'\n', &mut line)?;
    decode(&line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics() -> Metrics {
        Metrics {
            step: 7,
            stage: "search".to_owned(),
            loss: 0.1 + 0.2,
            gate_rates: vec![1.0, 0.25],
            ..Metrics::default()
        }
    }

    #[test]
    fn messages_survive_the_wire_in_order() {
        let sent = [
            FromRank::Hello { seat: 3 },
            FromRank::Metrics(metrics()),
            FromRank::Warning {
                reason: "two\nlines".to_owned(),
            },
            FromRank::Done,
        ];
        let mut wire = Vec::new();
        for message in &sent {
            write(&mut wire, message).unwrap();
        }
        let mut reader = wire.as_slice();
        for message in &sent {
            assert_eq!(
                read::<FromRank>(&mut reader).unwrap().as_ref(),
                Some(message)
            );
        }
        assert!(read::<FromRank>(&mut reader).unwrap().is_none());
    }

    #[test]
    fn numbers_that_are_not_finite_arrive_as_nan() {
        let sent = Metrics {
            loss: f64::INFINITY,
            gate_rates: vec![f64::NAN, 0.5],
            ..metrics()
        };
        let line = encode(&FromRank::Metrics(sent)).unwrap();
        let Some(FromRank::Metrics(received)) = decode(&line).unwrap() else {
            panic!("another message arrived");
        };
        assert!(received.loss.is_nan() && received.gate_rates[0].is_nan());
        assert_eq!(received.gate_rates[1], 0.5);
    }

    #[test]
    fn bad_lines_are_told_apart() {
        let cases: [(&[u8], &str); 3] = [
            (b"{\"hello\":{\"seat\":0}}", "ended in the middle"),
            (b"{}\n", "not a message"),
            (b"{\"hello\":{\"seat\":-1}}\n", "not a message"),
        ];
        for (mut line, expected) in cases {
            let error = read::<FromRank>(&mut line).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        let long = vec![b'x'; MAX_LINE + 5];
        let error = read::<FromRank>(&mut long.as_slice()).unwrap_err();
        assert!(matches!(error, IpcError::TooLong { size: MAX_LINE }));
    }
}
