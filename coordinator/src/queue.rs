//! A queue: whose jobs share, by its weight, and how much they may use.

use espalier_job::Device;
use serde::{Deserialize, Serialize};

/// The queue of jobs that name none. It is always there.
pub const DEFAULT: &str = "default";

/// Greatest weight.
pub const MAX_WEIGHT: u32 = 1_000_000;

/// A queue as an operator has set it, stored under `queues/<name>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Queue {
    /// Its share beside other queues that have jobs, 1 to [`MAX_WEIGHT`].
    pub weight: u32,
    /// Most processor slots in use; none without a limit.
    pub cpu: Option<u32>,
    /// Most GPUs in use; none without a limit.
    pub cuda: Option<u32>,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            weight: 1,
            cpu: None,
            cuda: None,
        }
    }
}

impl Queue {
    /// Most slots of a kind in use, if there is a limit.
    pub fn quota(&self, device: Device) -> Option<u32> {
        match device {
            Device::Cpu => self.cpu,
            Device::Cuda => self.cuda,
        }
    }
}
