//! A connection to one member.

use std::time::Duration;

use tonic::Request;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use super::EtcdOptions;
use super::wire::auth_client::AuthClient;
use super::wire::kv_client::KvClient;
use super::wire::lease_client::LeaseClient;
use super::wire::watch_client::WatchClient;
use crate::StoreError;

/// Largest answer: a page of the largest values.
pub(super) const MAX_ANSWER: usize = 80 << 20;

/// Longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(1);

/// Etcd allows a ping each 5 s; more often, it ends the connection.
const PING: Duration = Duration::from_secs(6);

/// Longest wait for the answer to a ping.
const PONG: Duration = Duration::from_secs(2);

/// A member, and the token by which it knows us.
#[derive(Clone, Debug)]
pub(super) struct Link {
    channel: Channel,
    token: Option<MetadataValue<Ascii>>,
}

impl Link {
    pub(super) fn new(channel: Channel, token: Option<MetadataValue<Ascii>>) -> Self {
        Self { channel, token }
    }

    pub(super) fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER)
    }

    pub(super) fn lease(&self) -> LeaseClient<Channel> {
        LeaseClient::new(self.channel.clone())
    }

    pub(super) fn watch(&self) -> WatchClient<Channel> {
        WatchClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER)
    }

    pub(super) fn auth(&self) -> AuthClient<Channel> {
        AuthClient::new(self.channel.clone())
    }

    /// A message on its way, with what etcd wants to know beside it.
    pub(super) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let metadata = request.metadata_mut();
        // A member that is cut off from the others says so instead of waiting.
        metadata.insert("hasleader", MetadataValue::from_static("true"));
        if let Some(token) = &self.token {
            metadata.insert("token", token.clone());
        }
        request
    }
}

/// A channel that connects when it is first used, and again when it has to.
pub(super) fn channel(endpoint: &str, options: &EtcdOptions) -> Result<Channel, StoreError> {
    let invalid = |error: tonic::transport::Error| {
        StoreError::Invalid(format!(
            "etcd endpoint {endpoint:?}: {}",
            with_causes(&error)
        ))
    };
    let mut target = Endpoint::from_shared(endpoint.to_owned())
        .map_err(invalid)?
        .connect_timeout(CONNECT)
        .http2_keep_alive_interval(PING)
        .keep_alive_timeout(PONG);
    if let Some(tls) = &options.tls {
        let mut config = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&tls.ca));
        if let Some((certificate, key)) = &tls.identity {
            config = config.identity(Identity::from_pem(certificate, key));
        }
        target = target.tls_config(config).map_err(invalid)?;
    }
    Ok(target.connect_lazy())
}

/// tonic's own text for a failed connection is only "transport error".
pub(super) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}
