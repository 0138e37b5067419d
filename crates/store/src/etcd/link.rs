//! A client of one member.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use etcd_client::{
    Certificate, Client, ConnectOptions, Identity, KvClient, LeaseClient, TlsOptions, WatchClient,
};
use tonic::Status;

use super::answers::to_status;
use super::{EtcdOptions, EtcdUser};
use crate::StoreError;

/// Largest answer: a page of the largest values.
pub(super) const MAX_ANSWER: usize = 80 << 20;

/// Longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(1);

/// Etcd allows a ping each 5 s while calls are under way, and none otherwise; more often, it ends the
/// connection.
const PING: Duration = Duration::from_secs(6);

/// Longest wait for the answer to a ping.
const PONG: Duration = Duration::from_secs(2);

/// A member.
pub(super) struct Link {
    pub(super) endpoint: String,
    client: Client,
    user: Option<EtcdUser>,
    /// The client has a token that the member has not refused yet.
    known: AtomicBool,
}

impl Link {
    /// Connects when it is first used, and again when it has to. Nor does it log in before: a member
    /// that is dead now is no reason not to start.
    pub(super) async fn new(endpoint: &str, options: &EtcdOptions) -> Result<Self, StoreError> {
        let client = Client::connect([endpoint], Some(connect_options(options)))
            .await
            .map_err(|error| {
                let status = to_status(error);
                StoreError::Invalid(format!("etcd endpoint {endpoint:?}: {}", status.message()))
            })?;
        Ok(Self {
            endpoint: endpoint.to_owned(),
            client,
            user: options.user.clone(),
            known: AtomicBool::new(false),
        })
    }

    pub(super) fn kv(&self) -> KvClient {
        self.client
            .kv_client()
            .max_decoding_message_size(MAX_ANSWER)
    }

    pub(super) fn lease(&self) -> LeaseClient {
        self.client.lease_client()
    }

    pub(super) fn watch(&self) -> WatchClient {
        self.client
            .watch_client()
            .max_decoding_message_size(MAX_ANSWER)
    }

    /// Asks for a token where there is a user and none is known. Clones of a client share it.
    pub(super) async fn log_in(&self) -> Result<(), Status> {
        let Some(user) = &self.user else {
            return Ok(());
        };
        if self.known.load(Ordering::Acquire) {
            return Ok(());
        }
        let user = (user.name.clone(), user.password.clone());
        let mut client = self.client.clone();
        client.update_user(Some(user)).await.map_err(to_status)?;
        self.known.store(true, Ordering::Release);
        Ok(())
    }

    /// The token is known no longer.
    pub(super) fn forget_token(&self) {
        self.known.store(false, Ordering::Release);
    }
}

fn connect_options(options: &EtcdOptions) -> ConnectOptions {
    let connect = ConnectOptions::new()
        .with_connect_timeout(CONNECT)
        .with_keep_alive(PING, PONG)
        .with_keep_alive_while_idle(false)
        // A member that is cut off from the others says so instead of waiting.
        .with_require_leader(true);
    let Some(tls) = &options.tls else {
        return connect;
    };
    let mut config = TlsOptions::new().ca_certificate(Certificate::from_pem(&tls.ca));
    if let Some((certificate, key)) = &tls.identity {
        config = config.identity(Identity::from_pem(certificate, key));
    }
    connect.with_tls(config)
}
