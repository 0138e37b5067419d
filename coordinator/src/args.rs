//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};

use crate::server::Options;

/// What a coordinator does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// Jobs, workers and the registry.
    #[default]
    All,
    /// The registry alone.
    Registry,
}

/// Accepts training jobs, places them on workers, and keeps the registry of checkpoints.
#[derive(Debug, Parser)]
#[command(name = "espalier-coordinator", version)]
pub struct Args {
    /// Address to listen on; port 0 takes a free one.
    #[arg(
        long,
        env = "ESPALIER_LISTEN",
        default_value = "127.0.0.1:7878",
        value_name = "HOST:PORT"
    )]
    pub listen: String,
    /// Folder of all state; made if it is not there.
    #[arg(
        long,
        env = "ESPALIER_DATA_DIR",
        default_value = "espalier-data",
        value_name = "DIR"
    )]
    pub data_dir: PathBuf,
    /// What to run.
    #[arg(long, env = "ESPALIER_ROLE", value_enum, default_value_t)]
    pub role: Role,
    /// Most bytes that the registry may store; as the disk allows if not set.
    #[arg(long, env = "ESPALIER_REGISTRY_QUOTA", value_name = "BYTES")]
    pub registry_quota: Option<u64>,
    /// Time without a message after which a worker counts as lost, in milliseconds.
    #[arg(
        long,
        env = "ESPALIER_LEASE_TTL_MS",
        default_value_t = 5000,
        value_parser = clap::value_parser!(u32).range(200..=600_000),
        value_name = "MS"
    )]
    pub lease_ttl_ms: u32,
    /// Name under which this coordinator leads, as others are told it; its listen address by default.
    #[arg(long, env = "ESPALIER_ADVERTISE", value_name = "HOST:PORT")]
    pub advertise: Option<String>,
}

impl Args {
    /// What to run.
    pub fn options(&self) -> Options {
        Options {
            data_dir: self.data_dir.clone(),
            role: self.role,
            registry_quota: self.registry_quota,
            lease_ttl: Duration::from_millis(u64::from(self.lease_ttl_ms)),
            advertise: self
                .advertise
                .clone()
                .unwrap_or_else(|| self.listen.clone()),
            ..Options::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn a_lease_too_short_is_refused() {
        let error =
            Args::try_parse_from(["espalier-coordinator", "--lease-ttl-ms", "10"]).unwrap_err();
        assert!(error.to_string().contains("--lease-ttl-ms"));
    }
}
