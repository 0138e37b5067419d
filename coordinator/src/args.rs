//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use espalier_auth::{Access, AccessArgs};
use espalier_registry::MirrorOptions;

use crate::auth::Auth;
use crate::auth_args::AuthArgs;
use crate::server::{BlobsOptions, Options, Secrets, StoreOptions};
use crate::store_args::StoreArgs;

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
    /// Folder of all state; made if it is not there. Coordinators that share a store share it too,
    /// unless they have --blobs: it then holds the registry's chunks, and lies on a file system that
    /// all of them mount.
    #[arg(
        long,
        env = "ESPALIER_DATA_DIR",
        default_value = "espalier-data",
        value_name = "DIR"
    )]
    pub data_dir: PathBuf,
    /// Where the registry's chunks lie: s3://BUCKET/PREFIX of an S3-compatible store. AWS_ENDPOINT_URL,
    /// AWS_REGION, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the like say how to reach it. In the data
    /// folder if not set.
    #[arg(long, env = "ESPALIER_BLOBS", value_name = "URL")]
    pub blobs: Option<String>,
    /// What to run.
    #[arg(long, env = "ESPALIER_ROLE", value_enum, default_value_t)]
    pub role: Role,
    /// Mirror this registry: read through it, keep what was asked for, and take no writes. Several
    /// coordinators of one store are given with commas. Needs --role registry.
    #[arg(
        long,
        env = "ESPALIER_MIRROR_OF",
        value_name = "URL",
        value_delimiter = ','
    )]
    pub mirror_of: Vec<String>,
    /// Time for which a mirror gives an answer again before it asks whether an alias has moved, in
    /// seconds.
    #[arg(
        long,
        env = "ESPALIER_MIRROR_FRESH_S",
        default_value_t = 5,
        value_parser = clap::value_parser!(u32).range(0..=86_400),
        value_name = "S"
    )]
    pub mirror_fresh_s: u32,
    /// File of the mirror's token at the registry that it mirrors: it reads what the token may.
    #[arg(long, env = "ESPALIER_MIRROR_TOKEN_FILE", value_name = "FILE")]
    pub mirror_token_file: Option<PathBuf>,
    /// Certificate of the authority that signed that registry's, a PEM file; for https:// URLs.
    #[arg(long, env = "ESPALIER_MIRROR_CA", value_name = "FILE")]
    pub mirror_ca: Option<PathBuf>,
    /// Most bytes that the registry may store; as the disk allows if not set. In a mirror what was asked
    /// for least recently makes room.
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
    /// Where others reach this coordinator: they are told it while it leads. Its listen address by
    /// default.
    #[arg(long, env = "ESPALIER_ADVERTISE", value_name = "HOST:PORT")]
    pub advertise: Option<String>,
    /// Where the state is kept that is not blobs.
    #[command(flatten)]
    pub store: StoreArgs,
    /// Who may call, and how.
    #[command(flatten)]
    pub auth: AuthArgs,
}

impl Args {
    /// What to run.
    ///
    /// # Errors
    /// An argument that is wrong, and how.
    pub fn options(&self) -> anyhow::Result<Options> {
        let store = self.store.options()?;
        if store != StoreOptions::Embedded && self.advertise.is_none() && self.listens_anywhere() {
            anyhow::bail!(
                "--listen {} is no address for others: pass --advertise HOST:PORT, where the workers and \
                 clients of the other coordinators reach this one",
                self.listen
            );
        }
        if store != StoreOptions::Embedded && self.role == Role::Registry {
            anyhow::bail!(
                "--role registry keeps its state in --data-dir and leads nobody: leave --store out"
            );
        }
        Ok(Options {
            store,
            data_dir: self.data_dir.clone(),
            role: self.role,
            blobs: self.blobs_options()?,
            mirror: self.mirror()?,
            registry_quota: self.registry_quota,
            auth: self.auth.options(),
            lease_ttl: Duration::from_millis(u64::from(self.lease_ttl_ms)),
            advertise: self
                .advertise
                .clone()
                .unwrap_or_else(|| self.listen.clone()),
            ..Options::default()
        })
    }

    fn mirror(&self) -> anyhow::Result<Option<MirrorOptions>> {
        if self.mirror_of.is_empty() {
            return Ok(None);
        }
        if self.role != Role::Registry {
            anyhow::bail!("--mirror-of makes a registry that runs no jobs: add --role registry");
        }
        if self.auth.auth == Auth::Required {
            anyhow::bail!(
                "--mirror-of with --auth required: a mirror gives everybody what it may read itself; leave \
                 --auth out, and keep it where everybody may read that"
            );
        }
        let access = Access::new(AccessArgs {
            token_file: self.mirror_token_file.clone(),
            ca: self.mirror_ca.clone(),
            ..AccessArgs::default()
        })?;
        Ok(Some(MirrorOptions {
            upstream: self.mirror_of.clone(),
            access,
            fresh: Duration::from_secs(self.mirror_fresh_s.into()),
        }))
    }

    fn blobs_options(&self) -> anyhow::Result<BlobsOptions> {
        let Some(url) = self.blobs.clone() else {
            return Ok(BlobsOptions::Folder);
        };
        if !url.starts_with("s3://") {
            anyhow::bail!(
                "--blobs {url:?} is not s3://BUCKET/PREFIX; a folder is named by --data-dir"
            );
        }
        // A variable that is not utf-8 is none of theirs.
        let variables = std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        });
        let settings = variables.filter(|(name, _)| name.starts_with("AWS_"));
        Ok(BlobsOptions::Bucket {
            url,
            settings: Secrets(settings.collect()),
        })
    }

    fn listens_anywhere(&self) -> bool {
        ["0.0.0.0:", "[::]:"]
            .iter()
            .any(|any| self.listen.starts_with(any))
            || self.listen.ends_with(":0")
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

    fn options(args: &[&str]) -> anyhow::Result<Options> {
        let args = ["espalier-coordinator"].iter().chain(args);
        Args::try_parse_from(args).unwrap().options()
    }

    #[test]
    fn a_shared_store_needs_an_address_for_the_others() {
        let etcd = ["--store", "etcd://h1:2379,h2:2379", "--listen"];
        let with = |listen: &'static str| [&etcd[..], &[listen]].concat();
        let error = options(&with("0.0.0.0:7878")).unwrap_err();
        assert!(error.to_string().contains("--advertise"), "{error}");
        let found = options(&with("10.0.0.1:7878")).unwrap();
        assert_eq!(found.advertise, "10.0.0.1:7878");
        let StoreOptions::Etcd(etcd) = found.store else {
            panic!("{found:?}");
        };
        assert_eq!(etcd.endpoints, ["http://h1:2379", "http://h2:2379"]);
    }

    #[test]
    fn arguments_that_do_not_fit_are_refused() {
        for (args, told) in [
            (&["--blobs", "/mnt/blobs"][..], "--data-dir"),
            (&["--mirror-of", "http://h:1"], "--role registry"),
            (
                &[
                    "--mirror-of",
                    "http://h:1",
                    "--role",
                    "registry",
                    "--auth",
                    "required",
                ],
                "leave --auth out",
            ),
            (&["--store", "redis://h"], "etcd://"),
            (&["--store", "etcds://h:1"], "--etcd-ca"),
            (&["--store", "etcd://h:1", "--etcd-ca", "x"], "etcds://"),
            (&["--store", "etcd://"], "etcd://"),
            (&["--store", "etcds://h:1", "--etcd-ca", "/none"], "/none"),
            (
                &[
                    "--store",
                    "etcd://h:1",
                    "--listen",
                    "h:2",
                    "--role",
                    "registry",
                ],
                "--role registry",
            ),
        ] {
            let error = options(args).unwrap_err();
            assert!(format!("{error:#}").contains(told), "{args:?}: {error:#}");
        }
    }

    #[test]
    fn a_lease_too_short_is_refused() {
        let error =
            Args::try_parse_from(["espalier-coordinator", "--lease-ttl-ms", "10"]).unwrap_err();
        assert!(error.to_string().contains("--lease-ttl-ms"));
    }
}
