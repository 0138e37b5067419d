//! What ends a rank before its work is done, and whose fault it is.

use std::{error::Error, io, path::PathBuf};

use espalier_collective::CollectiveError;
use espalier_data::DataError;
use espalier_job::Problems;
use espalier_vit::WeightsError;

use super::link::LinkError;
use crate::ipc::Fault;

/// Why a rank cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The job document.
    #[error("the job cannot be run: {0}")]
    Job(Problems),
    /// A field of the job that fits neither the data nor the checkpoints it names.
    #[error("{field}: {reason}")]
    Field {
        /// Its path.
        field: &'static str,
        /// What is wrong and what would be right.
        reason: String,
    },
    /// The data.
    #[error("{0}")]
    Data(DataError),
    /// Weights that the job names.
    #[error("{field}: {}", chain(source))]
    Weights {
        /// The field that names them.
        field: &'static str,
        /// What is wrong with them.
        source: WeightsError,
    },
    /// The loss is not a number any more.
    #[error(
        "step {step}: the loss is {loss}; training diverged, lower train.optimizer.lr or set train.optimizer.clip_norm"
    )]
    Diverged {
        /// The step.
        step: u64,
        /// The loss.
        loss: f64,
    },
    /// The checkpoint to go on from.
    #[error("{}: {reason}", path.display())]
    Checkpoint {
        /// The folder or file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A checkpoint cannot be written.
    #[error("{}: cannot write: {source}", path.display())]
    Write {
        /// The folder or file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The other ranks.
    #[error("{0}")]
    Collective(#[from] CollectiveError),
    /// The agent.
    #[error("{0}")]
    Link(#[from] LinkError),
    /// This process or machine.
    #[error("{0}")]
    Machine(String),
}

impl TrainError {
    /// Whose fault it is: what is in the job's hands comes back on every try, the rest may not.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Job(_)
            | Self::Field { .. }
            | Self::Data(_)
            | Self::Weights { .. }
            | Self::Diverged { .. } => Fault::User,
            Self::Checkpoint { .. }
            | Self::Write { .. }
            | Self::Collective(_)
            | Self::Link(_)
            | Self::Machine(_) => Fault::Infrastructure,
        }
    }
}

/// An error and its causes on one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
