use std::path::PathBuf;

use clap::{ArgGroup, Args, Subcommand};

use super::ExportArgs;

/// `espalier checkpoint ...`
#[derive(Debug, Subcommand)]
pub enum CheckpointCommand {
    /// List checkpoints, newest first.
    List(ListArgs),
    /// Show a checkpoint: its files, where it comes from and its report card.
    Describe {
        /// `name:alias`, `name@sha256:...` or `sha256:...`.
        reference: String,
    },
    /// Publish a folder; only what the registry lacks is sent, and a push that was cut off goes on.
    Push(PushArgs),
    /// Fetch a checkpoint into a folder, verified; a transfer that was cut off goes on.
    Pull {
        /// `name:alias`, `name@sha256:...` or `sha256:...`.
        reference: String,
        /// The folder; made by this command.
        dir: PathBuf,
        /// Only if it is signed by this public key, `ed25519:...`; may be given again for any of several.
        #[arg(
            long,
            env = "ESPALIER_SIGNED_BY",
            value_name = "KEY",
            value_delimiter = ','
        )]
        signed_by: Vec<String>,
    },
    /// Make a key that signs checkpoints; prints the public key by which others verify them.
    Keygen {
        /// File of the secret key; made by this command.
        file: PathBuf,
    },
    /// Compare two checkpoints: structure, tensors, report cards.
    Diff {
        /// `name:alias`, `name@sha256:...` or `sha256:...`.
        a: String,
        /// The same for the other one.
        b: String,
    },
    /// Check that a folder is exactly a checkpoint; exits with 1 when it is not.
    Verify {
        /// `name:alias`, `name@sha256:...` or `sha256:...`.
        reference: String,
        /// The folder.
        dir: PathBuf,
    },
    /// Write a pulled checkpoint in another format, on this machine.
    Export(ExportArgs),
    /// Move aliases and see where they pointed.
    #[command(subcommand)]
    Alias(AliasCommand),
    /// Change the labels of a checkpoint, or whether it is to be kept.
    Label(LabelArgs),
    /// Delete a checkpoint that no alias points to.
    Rm {
        /// `name@sha256:...` or `sha256:...`.
        reference: String,
    },
}

/// Arguments of `checkpoint list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Only this name.
    pub name: Option<String>,
    /// Also the checkpoints from which jobs go on.
    #[arg(long)]
    pub training: bool,
    /// Only those of which this is true, such as 'accuracy.per_sample > 0.9 and label.team = vision';
    /// docs/registry.md has the language.
    #[arg(long = "where", value_name = "CONDITION")]
    pub filter: Option<String>,
    /// At most this many.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=500))]
    pub limit: u32,
}

/// Arguments of `checkpoint push`.
#[derive(Debug, Args)]
pub struct PushArgs {
    /// The folder.
    pub dir: PathBuf,
    /// `name` or `name:alias`; the alias is moved to it.
    pub target: String,
    /// Move the alias only if it points to this digest; `none`: only if it does not exist.
    #[arg(long, value_name = "DIGEST")]
    pub expect: Option<String>,
    /// Move the alias even if it is protected.
    #[arg(long)]
    pub force: bool,
    /// Why, for the alias's history.
    #[arg(long, default_value = "")]
    pub reason: String,
    /// Sign it with the secret key in this file, made by `checkpoint keygen`.
    #[arg(long, value_name = "FILE")]
    pub sign: Option<PathBuf>,
    /// A label, such as team=vision; may be given again.
    #[arg(long = "label", value_name = "NAME=VALUE")]
    pub labels: Vec<String>,
}

/// `espalier checkpoint alias ...`
#[derive(Debug, Subcommand)]
pub enum AliasCommand {
    /// Point an alias to a checkpoint, or change its protection.
    #[command(group(ArgGroup::new("change").required(true).multiple(true)))]
    Set {
        /// `name:alias`.
        alias: String,
        /// The checkpoint, `sha256:...`.
        #[arg(group = "change")]
        digest: Option<String>,
        /// Point it to where it pointed before its last move.
        #[arg(long, group = "change", conflicts_with = "digest")]
        to_previous: bool,
        /// Only a forced change moves it from now on; `--protect false` takes that back.
        #[arg(long, group = "change", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
        protect: Option<bool>,
        /// Change it only if it points to this digest; `none`: only if it does not exist.
        #[arg(long, value_name = "DIGEST")]
        expect: Option<String>,
        /// Change it even if it is protected.
        #[arg(long)]
        force: bool,
        /// Why, for its history.
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// Point an alias to where it pointed before its last move; again, and it is back.
    Rollback {
        /// `name:alias`.
        alias: String,
        /// Move it even if it is protected.
        #[arg(long)]
        force: bool,
        /// Why, for its history.
        #[arg(long, default_value = "rolled back")]
        reason: String,
    },
    /// Remove an alias; its history stays.
    Rm {
        /// `name:alias`.
        alias: String,
        /// Remove it even if it is protected.
        #[arg(long)]
        force: bool,
        /// Why, for its history.
        #[arg(long, default_value = "removed")]
        reason: String,
    },
    /// Every move of an alias, newest first: when, who, from, to, why.
    History {
        /// `name:alias`.
        alias: String,
    },
}

/// Arguments of `checkpoint label`.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("change").required(true).multiple(true)))]
pub struct LabelArgs {
    /// `name:alias`, `name@sha256:...` or `sha256:...`.
    pub reference: String,
    /// Labels to set, such as team=vision.
    #[arg(value_name = "NAME=VALUE", group = "change")]
    pub set: Vec<String>,
    /// A label to take away; may be given again.
    #[arg(long, group = "change", value_name = "NAME")]
    pub remove: Vec<String>,
    /// Neither retention nor `rm` takes it away; `--keep false` takes that back.
    #[arg(long, group = "change", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub keep: Option<bool>,
}

/// `espalier registry ...`
#[derive(Debug, Subcommand)]
pub enum RegistryCommand {
    /// How much is stored, and how much may be.
    Usage,
    /// Apply retention and remove what nothing refers to.
    Gc {
        /// Only say what would be removed.
        #[arg(long)]
        dry_run: bool,
    },
    /// Verify every manifest, and every chunk where it is stored; exits with 1 when one is damaged and was not repaired.
    Fsck {
        /// Bring what is damaged back from another registry (http://...), or damaged chunks from a pulled folder.
        #[arg(long, value_name = "ENDPOINT-OR-FOLDER")]
        repair: Option<String>,
    },
    /// Show or set what is kept of a name's checkpoints.
    Retention(RetentionArgs),
}

/// Arguments of `registry retention`. Figures that are not given stay as they are; 0 keeps all.
#[derive(Debug, Args)]
pub struct RetentionArgs {
    /// The name; left out: for all names without a policy of their own.
    pub name: Option<String>,
    /// Newest training checkpoints of a job that runs.
    #[arg(long, value_name = "COUNT")]
    pub training_running: Option<u32>,
    /// Newest training checkpoints of a job that has ended.
    #[arg(long, value_name = "COUNT")]
    pub training_ended: Option<u32>,
    /// Newest models.
    #[arg(long, value_name = "COUNT")]
    pub models: Option<u32>,
    /// Best models besides, such as 3:accuracy.per_sample, or 3:latency_ms.compressed.1:smallest; `none` for none.
    #[arg(long, value_name = "COUNT:FIELD")]
    pub best: Option<String>,
    /// Take the name's own policy away.
    #[arg(long, conflicts_with_all = ["training_running", "training_ended", "models", "best"])]
    pub clear: bool,
}
