use std::fmt;
use std::time::Duration;

use crate::StoreError;
use crate::txn::validate_prefix;

/// How the store in etcd is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdOptions {
    /// Members of the cluster, such as `http://10.0.0.1:2379`; `https` when [`EtcdOptions::tls`] is set.
    pub endpoints: Vec<String>,
    /// Prefix of every key, so that clusters can share an etcd: ends in `/`.
    pub prefix: String,
    /// Whom etcd is to take us for, where it asks.
    pub user: Option<EtcdUser>,
    /// How the connections are encrypted.
    pub tls: Option<EtcdTls>,
    /// Longest time for a call, over all attempts.
    pub deadline: Duration,
    /// Time after which a leader that has not renewed its right is replaced; in whole seconds, and
    /// etcd has a least time of its own (2 s with its default settings).
    pub leader_ttl: Duration,
    /// Revisions kept for watches by the leader, which compacts etcd once a minute. 0 leaves it to
    /// etcd: right when others use the same etcd.
    pub history: u64,
    /// Etcd's `--max-txn-ops`.
    pub max_txn_ops: usize,
    /// Etcd's `--max-request-bytes`.
    pub max_request_bytes: usize,
}

impl Default for EtcdOptions {
    fn default() -> Self {
        Self {
            endpoints: vec!["http://127.0.0.1:2379".to_owned()],
            prefix: "/espalier/default/".to_owned(),
            user: None,
            tls: None,
            deadline: Duration::from_secs(5),
            leader_ttl: Duration::from_secs(2),
            history: 100_000,
            max_txn_ops: 128,
            max_request_bytes: 3 << 19,
        }
    }
}

/// A user of etcd.
#[derive(Clone, PartialEq, Eq)]
pub struct EtcdUser {
    /// Name.
    pub name: String,
    /// Password.
    pub password: String,
}

impl fmt::Debug for EtcdUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdUser")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// Certificates, as PEM text.
#[derive(Clone, PartialEq, Eq)]
pub struct EtcdTls {
    /// Of the authority that signed the members' certificates.
    pub ca: Vec<u8>,
    /// Our certificate and its key, where etcd asks for one.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl fmt::Debug for EtcdTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdTls")
            .field("identity", &self.identity.is_some())
            .finish_non_exhaustive()
    }
}

impl EtcdOptions {
    pub(super) fn validate(&self) -> Result<(), StoreError> {
        let invalid = |problem: String| Err(StoreError::Invalid(problem));
        if self.endpoints.is_empty() {
            return invalid("no etcd endpoint is given".to_owned());
        }
        let scheme = if self.tls.is_some() {
            "https://"
        } else {
            "http://"
        };
        if let Some(other) = self.endpoints.iter().find(|e| !e.starts_with(scheme)) {
            return invalid(format!(
                "etcd endpoint {other:?} does not begin with {scheme}: https needs the certificate of \
                 an authority, http takes none"
            ));
        }
        validate_prefix(&self.prefix)?;
        if !self.prefix.ends_with('/') || self.prefix.len() > 256 {
            return invalid(format!(
                "prefix {:?} of etcd's keys must end in `/` and have at most 256 bytes",
                self.prefix
            ));
        }
        if self.leader_ttl < Duration::from_secs(1) {
            return invalid("the leader's lease lasts at least 1 s".to_owned());
        }
        if self.max_txn_ops < 8 {
            return invalid("etcd's --max-txn-ops must be at least 8".to_owned());
        }
        if self.max_request_bytes < 1 << 20 {
            return invalid("etcd's --max-request-bytes must be at least 1 MiB".to_owned());
        }
        Ok(())
    }
}
