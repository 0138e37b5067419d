//! Etcd's numbers, keys and errors as ours.

use std::sync::Arc;

use etcd_client::{Error, KeyValue, ResponseHeader};
use tonic::Status;

use crate::{Entry, Revision, StoreError};

/// Etcd counts with a sign, and never below zero.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(super) fn to_revision(number: i64) -> Revision {
    Revision(u64::try_from(number).unwrap_or(0))
}

/// Etcd's revision when it answered.
pub(super) fn revision(header: Option<&ResponseHeader>) -> Revision {
    to_revision(header.map_or(0, ResponseHeader::revision))
}

/// The store's name of a key in etcd.
pub(super) fn to_key(data: &str, key: Vec<u8>) -> Result<String, StoreError> {
    let key = String::from_utf8(key).map_err(foreign)?;
    match key.strip_prefix(data) {
        Some(key) => Ok(key.to_owned()),
        None => Err(foreign(format!("{key:?} is not under {data:?}"))),
    }
}

pub(super) fn to_entry(data: &str, kv: KeyValue) -> Result<Entry, StoreError> {
    let (create, modified) = (kv.create_revision(), kv.mod_revision());
    let (key, value) = kv.into_key_value();
    Ok(Entry {
        key: to_key(data, key)?,
        value,
        create_revision: to_revision(create),
        mod_revision: to_revision(modified),
    })
}

fn foreign(problem: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> StoreError {
    StoreError::Backend(Arc::from(problem.into()))
}

/// What etcd said; and what its client says on its own in the same terms.
pub(super) fn to_status(error: Error) -> Status {
    match error {
        Error::GRpcStatus(status) => status,
        Error::TransportError(error) => Status::unavailable(with_causes(&error)),
        // A lease without time left is answered, not refused.
        Error::LeaseKeepAliveError(text) => Status::not_found(text),
        // So the client calls a keep-alive, too, that got no answer.
        Error::WatchError(_) => Status::unavailable("etcd ended the stream"),
        Error::InvalidMetadataValue(_) => {
            Status::failed_precondition("etcd gave a token that is no text")
        }
        other => Status::failed_precondition(other.to_string()),
    }
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
