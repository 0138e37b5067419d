//! Etcd's numbers and keys as ours.

use std::sync::Arc;

use super::wire::{KeyValue, ResponseHeader};
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
    to_revision(header.map_or(0, |header| header.revision))
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
    Ok(Entry {
        key: to_key(data, kv.key)?,
        value: kv.value,
        create_revision: to_revision(kv.create_revision),
        mod_revision: to_revision(kv.mod_revision),
    })
}

fn foreign(problem: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> StoreError {
    StoreError::Backend(Arc::from(problem.into()))
}
