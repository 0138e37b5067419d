//! The arguments that say where the state is kept.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use espalier_store::{EtcdOptions, EtcdTls, EtcdUser};

use crate::server::StoreOptions;

/// Where the state is kept that is not blobs.
#[derive(Debug, Args)]
pub struct StoreArgs {
    /// An etcd cluster that several coordinators share, as etcd://HOST:PORT,HOST:PORT or, encrypted,
    /// etcds://HOST:PORT,HOST:PORT. Without it a file in the data folder, for one coordinator.
    #[arg(long, env = "ESPALIER_STORE", value_name = "URL")]
    pub store: Option<String>,
    /// Prefix of all keys in etcd: coordinators with the same one are of one deployment.
    #[arg(
        long,
        env = "ESPALIER_STORE_PREFIX",
        default_value = "/espalier/default/",
        value_name = "PREFIX"
    )]
    pub store_prefix: String,
    /// Certificate of the authority that signed those of etcd, a PEM file.
    #[arg(long, env = "ESPALIER_ETCD_CA", value_name = "FILE")]
    pub etcd_ca: Option<PathBuf>,
    /// This coordinator's certificate for etcd, a PEM file.
    #[arg(
        long,
        env = "ESPALIER_ETCD_CERT",
        value_name = "FILE",
        requires = "etcd_key"
    )]
    pub etcd_cert: Option<PathBuf>,
    /// The certificate's key, a PEM file.
    #[arg(
        long,
        env = "ESPALIER_ETCD_KEY",
        value_name = "FILE",
        requires = "etcd_cert"
    )]
    pub etcd_key: Option<PathBuf>,
    /// User of etcd, where it asks for one.
    #[arg(
        long,
        env = "ESPALIER_ETCD_USER",
        value_name = "NAME",
        requires = "etcd_password"
    )]
    pub etcd_user: Option<String>,
    /// The user's password; from the environment, where other users of the machine do not see it.
    #[arg(
        long,
        env = "ESPALIER_ETCD_PASSWORD",
        hide_env_values = true,
        value_name = "PASSWORD",
        requires = "etcd_user"
    )]
    pub etcd_password: Option<String>,
    /// Time after which a leader that is silent is replaced, in seconds. Etcd grants no less than one
    /// and a half times its election timeout.
    #[arg(
        long,
        env = "ESPALIER_LEADER_TTL_S",
        default_value_t = 2,
        value_parser = clap::value_parser!(u32).range(1..=60),
        value_name = "S"
    )]
    pub leader_ttl_s: u32,
    /// Revisions that etcd keeps for those who follow changes; the leader compacts it to that. 0 leaves
    /// it to etcd's own settings: for an etcd that others use too.
    #[arg(
        long,
        env = "ESPALIER_ETCD_HISTORY",
        default_value_t = 100_000,
        value_name = "REVISIONS"
    )]
    pub etcd_history: u64,
}

impl StoreArgs {
    pub(crate) fn options(&self) -> anyhow::Result<StoreOptions> {
        let Some(url) = &self.store else {
            return Ok(StoreOptions::Embedded);
        };
        let (scheme, hosts) = match url.split_once("://") {
            Some(("etcd", hosts)) if !hosts.is_empty() => ("http", hosts),
            Some(("etcds", hosts)) if !hosts.is_empty() => ("https", hosts),
            _ => bail!(
                "--store {url:?} is not etcd://HOST:PORT,HOST:PORT or etcds://HOST:PORT,HOST:PORT"
            ),
        };
        let endpoints = hosts
            .split(',')
            .map(|host| format!("{scheme}://{}", host.trim()))
            .collect();
        Ok(StoreOptions::Etcd(Box::new(EtcdOptions {
            endpoints,
            prefix: self.store_prefix.clone(),
            user: self.user(),
            tls: self.tls(scheme == "https")?,
            leader_ttl: Duration::from_secs(self.leader_ttl_s.into()),
            history: self.etcd_history,
            ..EtcdOptions::default()
        })))
    }

    fn user(&self) -> Option<EtcdUser> {
        Some(EtcdUser {
            name: self.etcd_user.clone()?,
            password: self.etcd_password.clone()?,
        })
    }

    fn tls(&self, encrypted: bool) -> anyhow::Result<Option<EtcdTls>> {
        let Some(ca) = &self.etcd_ca else {
            if encrypted {
                bail!("--store etcds://... needs --etcd-ca, the certificate of etcd's authority");
            }
            return Ok(None);
        };
        if !encrypted {
            bail!("--etcd-ca is for --store etcds://...; etcd://... is not encrypted");
        }
        let identity = match (&self.etcd_cert, &self.etcd_key) {
            (Some(certificate), Some(key)) => {
                Some((read(certificate, "--etcd-cert")?, read(key, "--etcd-key")?))
            }
            _ => None,
        };
        Ok(Some(EtcdTls {
            ca: read(ca, "--etcd-ca")?,
            identity,
        }))
    }
}

fn read(path: &Path, argument: &str) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("{argument} {}", path.display()))
}
