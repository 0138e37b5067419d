//! The command line.

mod checkpoint;
mod token;

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};
use espalier_auth::AccessArgs;

pub use checkpoint::{
    AliasCommand, CheckpointCommand, LabelArgs, ListArgs, PushArgs, RegistryCommand, RetentionArgs,
};
pub use token::{CreateArgs, TokenCommand};

/// Train vision transformers that are pruned once and gated per input.
#[derive(Debug, Parser)]
#[command(
    name = "espalier",
    version,
    propagate_version = true,
    max_term_width = 100
)]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Clone, Debug, Args)]
pub struct Global {
    /// Where the coordinator listens; several that share a store by commas: the one that leads is found.
    #[arg(
        long,
        global = true,
        env = "ESPALIER_ENDPOINT",
        default_value = "http://127.0.0.1:7878"
    )]
    pub endpoint: String,
    /// How it shows who it is.
    #[command(flatten)]
    pub access: AccessArgs,
    /// How results are printed on stdout.
    #[arg(short, long, global = true, value_enum, default_value_t = Output::Table)]
    pub output: Output,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start a coordinator and workers on this machine, and keep them running until interrupted.
    Up(UpArgs),
    /// Submit jobs and see how they go.
    #[command(subcommand)]
    Job(JobCommand),
    /// Look at checkpoints and fetch them.
    #[command(subcommand)]
    Checkpoint(CheckpointCommand),
    /// Look after the registry: what it holds, what it keeps, what is damaged.
    #[command(subcommand)]
    Registry(RegistryCommand),
    /// Evaluate a checkpoint on its validation data, on this machine.
    Eval(EvalArgs),
    /// Measure how much faster than its dense twin a checkpoint is, on this machine.
    Bench(BenchArgs),
    /// Look at the workers, and take them in and out of use.
    #[command(subcommand)]
    Worker(WorkerCommand),
    /// Make, list and revoke tokens, where the coordinator asks for them.
    #[command(subcommand)]
    Token(TokenCommand),
    /// Share the cluster among queues of jobs.
    #[command(subcommand)]
    Queue(QueueCommand),
    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
}

/// Arguments of `up`.
#[derive(Debug, Args)]
pub struct UpArgs {
    /// Folder of all state: the store, the registry's chunks, the workers' scratch space.
    #[arg(long, default_value = ".espalier")]
    pub dir: PathBuf,
    /// Address to listen on.
    #[arg(long, default_value = "127.0.0.1:7878")]
    pub listen: std::net::SocketAddr,
    /// Number of workers.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub workers: u32,
    /// Ranks each worker can run at a time.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub slots: u32,
    /// Where the workers' tensors live.
    #[arg(long, value_enum, default_value_t = Device::Cpu)]
    pub device: Device,
}

/// Where tensors live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Device {
    /// Processors.
    Cpu,
    /// NVIDIA GPUs.
    Cuda,
}

/// `espalier job ...`
#[derive(Debug, Subcommand)]
pub enum JobCommand {
    /// Submit a job file and print the job's id.
    Submit(SubmitArgs),
    /// List jobs, newest first.
    List {
        /// At most this many.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=500))]
        limit: u32,
    },
    /// Show a job and why it is in its state.
    Describe {
        /// The job's id.
        job: String,
    },
    /// Print the log lines of a job's ranks.
    Logs {
        /// The job's id.
        job: String,
        /// Wait for further lines until the job has ended.
        #[arg(short, long)]
        follow: bool,
    },
    /// Ask a job to stop.
    Cancel {
        /// The job's id.
        job: String,
        /// Why, shown to others.
        #[arg(long, default_value = "cancelled by the user")]
        reason: String,
    },
    /// Hold a job back: it finishes its step, keeps it in a checkpoint, and leaves its workers.
    Pause {
        /// The job's id.
        job: String,
        /// Why, shown to others.
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// Put a paused job back into its place in the queue.
    Resume {
        /// The job's id.
        job: String,
    },
    /// Wait until a job has ended; exits with 5 unless it succeeded.
    Wait {
        /// The job's id.
        job: String,
        /// Give up after this long, such as 90s, 20m or 2h; exits with 3.
        #[arg(long, value_parser = parse_duration)]
        timeout: Option<Duration>,
    },
    /// Show a job's progress until it has ended; exits with 5 unless it succeeded.
    Follow {
        /// The job's id.
        job: String,
    },
}

/// Arguments of `job submit`.
#[derive(Debug, Args)]
pub struct SubmitArgs {
    /// The job file. Relative paths in it are relative to its folder.
    #[arg(short, long)]
    pub file: PathBuf,
    /// Show the job's progress until it has ended; exits with 5 unless it succeeded.
    #[arg(long)]
    pub follow: bool,
    /// Identity of this submit; repeating it gives the same job again.
    #[arg(long)]
    pub request_id: Option<String>,
}

/// Arguments of `checkpoint export`.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("format").required(true)))]
pub struct ExportArgs {
    /// The pulled checkpoint's folder.
    pub folder: PathBuf,
    /// Write model.onnx, whose gates decide for the batch, and for a gated model model-masked.onnx,
    /// whose gates decide for each sample.
    #[arg(long, group = "format")]
    pub onnx: bool,
    /// Write the ONNX files at this budget, MACs over those of the dense model; only of a checkpoint that was
    /// trained for several [default: its job's target].
    #[arg(long, requires = "onnx")]
    pub budget: Option<f64>,
    /// Write a folder that another library loads. A model that it cannot express, such as one with gates
    /// or with fewer heads in some blocks, is refused.
    #[arg(long, group = "format", value_enum)]
    pub layout: Option<Layout>,
    /// Where to. For --onnx made if it is not there [default: the checkpoint's folder]; for --layout a
    /// folder that is to be made [default: that of the layout's name in the checkpoint's folder].
    #[arg(long)]
    pub out: Option<PathBuf>,
}

/// A library's way to keep models.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Layout {
    /// timm 1.x: timm.create_model("local-dir:FOLDER", pretrained=True).
    Timm,
    /// Hugging Face's transformers: from_pretrained("FOLDER") of the class named in its config.json.
    Hf,
}

/// Arguments of `eval`.
#[derive(Debug, Args)]
pub struct EvalArgs {
    /// A checkpoint's folder, or its reference in the registry.
    pub target: String,
    /// Validation data, if it is not where it was in training.
    #[arg(long)]
    pub data: Option<PathBuf>,
    /// Layout of the validation data, if it is not as in training.
    #[arg(long, value_enum)]
    pub format: Option<Format>,
    /// How gates decide: every sample alone, or each batch together.
    #[arg(long, value_enum, default_value_t = GateMode::PerSample)]
    pub mode: GateMode,
    /// Inference batch.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub batch: u32,
    /// Run the checkpoint at this budget, MACs over those of the dense model; only one that was trained for
    /// several [default: its job's target].
    #[arg(long)]
    pub budget: Option<f64>,
    /// What modules compute in; with bf16 the decisions that differ from those of f32 are counted.
    #[arg(long, value_enum, default_value_t = Precision::F32)]
    pub precision: Precision,
}

/// Arguments of `bench`.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// A checkpoint's folder, or its reference in the registry.
    pub target: String,
    /// Folder of the images, if it is not where the validation data was in training.
    #[arg(long)]
    pub data: Option<PathBuf>,
    /// Layout of the images, if it is not as in training.
    #[arg(long, value_enum)]
    pub format: Option<Format>,
    /// Inference batches.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 8, 64], value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub batch: Vec<u32>,
    /// Threads of each forward pass.
    #[arg(long, value_delimiter = ',', default_values_t = [1], value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub threads: Vec<u32>,
    /// What modules compute in, the dense model's too.
    #[arg(long, value_enum, default_value_t = Precision::F32)]
    pub precision: Precision,
}

/// What modules compute in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Precision {
    /// 32-bit floats.
    F32,
    /// Brain floats of 16 bits, where the processor has them; all between the modules stays f32.
    Bf16,
}

impl Precision {
    /// As `espalier-worker` spells it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        }
    }
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

/// `espalier worker ...`
#[derive(Debug, Subcommand)]
pub enum WorkerCommand {
    /// List the workers.
    List,
    /// Let a worker run empty: no new gangs, and those it has go on without it or move to others.
    Drain {
        /// The worker's id.
        worker: String,
        /// Evict what is still there after this long, such as 90s, 20m or 2h.
        #[arg(long, default_value = "10m", value_parser = parse_duration)]
        deadline: Duration,
        /// Why, shown to others.
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// Open a worker that is drained, or excluded after faults.
    Resume {
        /// The worker's id.
        worker: String,
    },
}

/// `espalier queue ...`
#[derive(Debug, Subcommand)]
pub enum QueueCommand {
    /// List the queues, with what they use.
    List,
    /// Make a queue, or replace its settings.
    Set {
        /// The queue's name.
        queue: String,
        /// Its share beside other queues that have jobs.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        weight: u32,
        /// Most slots of processors in use, as cpu=N, and of GPUs, as cuda=N; no limit where none is given.
        #[arg(long, value_delimiter = ',', value_parser = parse_quota)]
        quota: Vec<(Device, u32)>,
    },
    /// Remove a queue whose jobs have all ended.
    Delete {
        /// The queue's name.
        queue: String,
    },
}

fn parse_quota(text: &str) -> Result<(Device, u32), String> {
    let wrong = || format!("{text:?} is not cpu=N or cuda=N");
    let (device, slots) = text.split_once('=').ok_or_else(wrong)?;
    let device = Device::from_str(device, false).map_err(|_| wrong())?;
    Ok((device, slots.parse().map_err(|_| wrong())?))
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let seconds = match &text[digits.len()..] {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 24 * 3600,
        unit => return Err(format!("unknown unit {unit:?}: use s, m, h or d")),
    };
    let count: u64 = digits
        .parse()
        .map_err(|_| format!("{text:?} is not a duration such as 90s, 20m or 2h"))?;
    Ok(Duration::from_secs(count.saturating_mul(seconds)))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn quotas_name_their_device() {
        assert_eq!(parse_quota("cpu=8"), Ok((Device::Cpu, 8)));
        assert_eq!(parse_quota("cuda=0"), Ok((Device::Cuda, 0)));
        for wrong in ["8", "gpu=8", "cpu=", "cpu=-1"] {
            assert!(parse_quota(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn durations_take_a_unit() {
        assert_eq!(parse_duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("20m"), Ok(Duration::from_secs(1200)));
        assert_eq!(parse_duration("2h"), Ok(Duration::from_secs(7200)));
        assert_eq!(parse_duration("90d"), Ok(Duration::from_secs(7_776_000)));
        assert!(parse_duration("2w").is_err());
        assert!(parse_duration("soon").is_err());
    }
}
