//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use espalier_auth::AccessArgs;
use espalier_job::Preset;
use serde::{Deserialize as _, de::IntoDeserializer as _};

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
    /// Measure how much faster than its dense twin a checkpoint is on this machine.
    Bench(BenchArgs),
    /// Measure the times of modules by their size, for jobs whose budget is time.
    LatencyTable(LatencyTableArgs),
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
    /// How it shows who it is.
    #[command(flatten)]
    pub access: AccessArgs,
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
    /// What modules compute in; with bf16 the decisions that differ from those of f32 are counted.
    #[arg(long, value_enum, default_value_t = Precision::F32)]
    pub precision: Precision,
    /// Print the result as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `bench`.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// The checkpoint's folder.
    #[arg(required_unless_present = "preset", conflicts_with = "preset")]
    pub dir: Option<PathBuf>,
    /// Instead of a checkpoint: dimensions by their name in job files, random weights, some heads
    /// and neurons gone, and gates that decide by the image.
    #[arg(long, value_parser = preset)]
    pub preset: Option<Preset>,
    /// With --preset: MACs over those of the dense model.
    #[arg(long, default_value_t = 0.5, value_parser = target, requires = "preset")]
    pub target: f64,
    /// Folder of the images, if it is not where the validation data was in training.
    #[arg(long, conflicts_with = "preset")]
    pub data: Option<PathBuf>,
    /// Layout of the images, if it is not as in training.
    #[arg(long, value_enum, conflicts_with = "preset")]
    pub format: Option<Format>,
    /// Inference batches.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 8, 64], value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub batch: Vec<u32>,
    /// Threads of each forward pass.
    #[arg(long, value_delimiter = ',', default_values_t = [1], value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub threads: Vec<u32>,
    /// Rounds, at most.
    #[arg(long, default_value_t = 25, value_parser = clap::value_parser!(u32).range(5..=10_000))]
    pub rounds: u32,
    /// Seconds after which no round is started, for each batch and number of threads; five rounds
    /// are run in any case.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub seconds: u32,
    /// What modules compute in, the dense model's too.
    #[arg(long, value_enum, default_value_t = Precision::F32, conflicts_with = "python")]
    pub precision: Precision,
    /// A Python with PyTorch and safetensors, to measure the dense model in eager PyTorch beside.
    #[arg(long)]
    pub python: Option<PathBuf>,
    /// Print the result as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `latency-table`.
#[derive(Debug, Args)]
pub struct LatencyTableArgs {
    /// Dimensions by their name in job files.
    #[arg(long, value_parser = preset)]
    pub preset: Preset,
    /// Classes of the job's data.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub classes: u32,
    /// The job's compress.static.neuron_candidates.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub neuron_candidates: u32,
    /// The job's compress.gate.hidden_ratio.
    #[arg(long, default_value_t = 0.125)]
    pub gate_hidden_ratio: f64,
    /// Inference batch.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub batch: u32,
    /// Threads of a forward pass.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub threads: u32,
    /// Rounds over all sizes; times are medians.
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(3..=10_000))]
    pub rounds: u32,
    /// The table's file.
    #[arg(short, long)]
    pub output: PathBuf,
}

/// What modules compute in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Precision {
    /// 32-bit floats.
    F32,
    /// Brain floats of 16 bits, where the processor has them; all between the modules stays f32.
    Bf16,
}

fn preset(name: &str) -> Result<Preset, serde::de::value::Error> {
    Preset::deserialize(name.into_deserializer())
}

fn target(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|target| (0.05..1.0).contains(target))
        .ok_or_else(|| "not a number from 0.05 to 1".to_owned())
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
