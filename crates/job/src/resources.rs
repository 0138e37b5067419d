use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the job needs to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Resources {
    /// How many workers form the gang.
    pub workers: Workers,
    /// Ranks (GPUs, or CPU slots) on each worker.
    pub ranks_per_worker: RanksPerWorker,
    /// Where the tensors live.
    pub device: Device,
    /// The queue in which the job waits; an operator sets up further ones (`espalier queue set`).
    pub queue: String,
    /// Its place in the queue: the higher goes first, and takes workers from lower ones.
    pub priority: Priority,
    /// What becomes of a rank that has needed more than twice the median rank's time for 30 s.
    pub straggler: Straggler,
}

impl Default for Resources {
    fn default() -> Self {
        Self {
            workers: Workers::default(),
            ranks_per_worker: RanksPerWorker::default(),
            device: Device::default(),
            queue: queue(),
            priority: Priority::default(),
            straggler: Straggler::default(),
        }
    }
}

fn queue() -> String {
    "default".to_owned()
}

/// The priority of a job in its queue.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(transparent)]
pub struct Priority(#[schemars(range(min = -100, max = 100))] pub i32);

/// What becomes of a slow rank.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Straggler {
    /// It is told of.
    #[default]
    Warn,
    /// The gang goes on without its worker once another has taken its place, or at once while it has more
    /// than its fewest.
    Replace,
}

/// Ranks on each worker; at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct RanksPerWorker(#[schemars(range(min = 1, max = 64))] pub u32);

impl Default for RanksPerWorker {
    fn default() -> Self {
        Self(1)
    }
}

/// How many workers form the gang.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Workers {
    /// The job waits until this many are free.
    #[schemars(range(min = 1, max = 4096))]
    pub min: u32,
    /// The job takes no more than this many.
    #[schemars(range(min = 1, max = 4096))]
    pub max: u32,
}

impl Default for Workers {
    fn default() -> Self {
        Self { min: 1, max: 1 }
    }
}

/// Where the tensors live.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Device {
    /// One thread of a processor per rank; collectives by Gloo.
    #[default]
    Cpu,
    /// One GPU per rank; collectives by NCCL.
    Cuda,
}
