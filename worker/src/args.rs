//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Run Espalier's ranks on this machine.
#[derive(Debug, Parser)]
#[command(
    name = "espalier-worker",
    version,
    propagate_version = true,
    max_term_width = 100
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve a coordinator: start ranks as it asks, until interrupted.
    Agent(AgentArgs),
    /// Train as one rank of a gang; started by the agent.
    Rank(RankArgs),
    /// Evaluate a checkpoint's folder on its validation data.
    Eval(EvalArgs),
}

/// Arguments of `agent`.
#[derive(Debug, Args)]
pub struct AgentArgs {
    /// Where the coordinator listens; several that share a store by commas: the one that leads is
    /// found, and followed.
    #[arg(
        long,
        env = "ESPALIER_COORDINATOR",
        default_value = "http://127.0.0.1:7878",
        value_delimiter = ','
    )]
    pub coordinator: Vec<String>,
    /// Folder for the worker's identity and its ranks' files; only one agent may use it.
    #[arg(long, env = "ESPALIER_DIR")]
    pub dir: PathBuf,
    /// Identity of this worker; without it, one is made and kept in the folder.
    #[arg(long, env = "ESPALIER_ID")]
    pub id: Option<String>,
    /// Ranks this worker can run at a time: GPUs, or processor slots.
    #[arg(long, env = "ESPALIER_SLOTS", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub slots: u32,
    /// Where the ranks' tensors live.
    #[arg(long, env = "ESPALIER_DEVICE", value_enum, default_value_t = Device::Cpu)]
    pub device: Device,
    /// Host or address at which the other workers reach this one's ranks.
    #[arg(long, env = "ESPALIER_HOST", default_value = "127.0.0.1")]
    pub host: String,
}

/// Where tensors live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Device {
    /// Processors.
    Cpu,
    /// NVIDIA GPUs, one per slot.
    Cuda,
}

/// Arguments of `rank`.
#[derive(Debug, Args)]
pub struct RankArgs {
    /// The agent's Unix socket.
    #[arg(long)]
    pub socket: PathBuf,
    /// This process's seat in the job: its number among all ranks' processes.
    #[arg(long)]
    pub seat: u64,
}

/// Arguments of `eval`.
#[derive(Debug, Args)]
pub struct EvalArgs {
    /// The checkpoint's folder.
    pub dir: PathBuf,
    /// Folder, or files, of the validation data, if it is not where it was in training.
    #[arg(long)]
    pub data: Option<PathBuf>,
    /// Layout of the validation data, if it is not as in training.
    #[arg(long, value_enum)]
    pub format: Option<Format>,
    /// Inference batch.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub batch: u32,
    /// How gates decide: every sample alone, or each batch together.
    #[arg(long, value_enum, default_value_t = GateMode::PerSample)]
    pub mode: GateMode,
    /// Run the model at this budget, MACs over those of the dense model; only one that was trained for several
    /// [default: its job's target].
    #[arg(long)]
    pub budget: Option<f64>,
    /// Print the result as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Layout of data files, as in the job file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// The IDX files of MNIST and Fashion-MNIST.
    Idx,
    /// The binary version of CIFAR-10 or CIFAR-100.
    Cifar,
    /// JPEG or PNG files in one folder per class.
    ImageFolder,
    /// WebDataset shards.
    #[value(name = "webdataset")]
    WebDataset,
    /// Parquet files as Hugging Face writes them.
    Parquet,
}

/// How gates decide at inference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum GateMode {
    /// Every sample alone.
    PerSample,
    /// One decision per batch.
    Shared,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
