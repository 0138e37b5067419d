use std::collections::HashSet;
use std::fmt;

use crate::leader::LEADER_KEY;
use crate::store::LeaseId;
use crate::{Limits, MAX_KEY, MAX_VALUE, StoreError};

/// Number of a transaction that changed something. Grows by one, is never reused. 0 is before the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

impl Revision {
    /// The one after.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A key and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Printable ASCII without space, at most [`MAX_KEY`] bytes.
    pub key: String,
    /// At most [`MAX_VALUE`] bytes.
    pub value: Vec<u8>,
    /// Transaction that made the key; a key deleted and put again is made again.
    pub create_revision: Revision,
    /// Transaction that put this value.
    pub mod_revision: Revision,
}

/// A condition of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compare {
    /// The key has a value.
    Exists(String),
    /// The key has no value.
    Absent(String),
    /// The key's value was put by this transaction.
    ModRevision(String, Revision),
    /// The key was made by this transaction.
    CreateRevision(String, Revision),
}

impl Compare {
    /// The key is as it was read: this value, or absent.
    pub fn unchanged(key: impl Into<String>, read: Option<&Entry>) -> Self {
        match read {
            Some(entry) => Self::ModRevision(key.into(), entry.mod_revision),
            None => Self::Absent(key.into()),
        }
    }

    /// The key compared.
    pub fn key(&self) -> &str {
        match self {
            Self::Exists(key)
            | Self::Absent(key)
            | Self::ModRevision(key, _)
            | Self::CreateRevision(key, _) => key,
        }
    }

    /// Whether it holds for the (create, mod) revisions of the key, `None` when absent.
    pub(crate) fn holds(&self, revisions: Option<(Revision, Revision)>) -> bool {
        match self {
            Self::Exists(_) => revisions.is_some(),
            Self::Absent(_) => revisions.is_none(),
            Self::ModRevision(_, wanted) => revisions.is_some_and(|(_, found)| found == *wanted),
            Self::CreateRevision(_, wanted) => revisions.is_some_and(|(found, _)| found == *wanted),
        }
    }
}

/// A change that a transaction makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Gives the key a value.
    Put {
        /// The key.
        key: String,
        /// The value.
        value: Vec<u8>,
        /// Lease with which the key vanishes; a put without one detaches the key from any.
        lease: Option<LeaseId>,
    },
    /// Takes the key's value away; nothing when it has none.
    Delete {
        /// The key.
        key: String,
    },
}

impl Op {
    /// A put without a lease.
    pub fn put(key: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        Self::Put {
            key: key.into(),
            value: value.into(),
            lease: None,
        }
    }

    /// A put of a key that vanishes with the lease.
    pub fn put_leased(key: impl Into<String>, value: impl Into<Vec<u8>>, lease: LeaseId) -> Self {
        Self::Put {
            key: key.into(),
            value: value.into(),
            lease: Some(lease),
        }
    }

    /// A delete.
    pub fn delete(key: impl Into<String>) -> Self {
        Self::Delete { key: key.into() }
    }

    /// The key changed.
    pub fn key(&self) -> &str {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key,
        }
    }
}

/// Changes made all together, if every condition holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// All must hold. At most [`Limits::ops`].
    pub compares: Vec<Compare>,
    /// Each key at most once. At most [`Limits::ops`].
    pub ops: Vec<Op>,
}

impl Txn {
    /// No conditions, no changes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a condition.
    #[must_use]
    pub fn when(mut self, compare: Compare) -> Self {
        self.compares.push(compare);
        self
    }

    /// Adds a change.
    #[must_use]
    pub fn then(mut self, op: Op) -> Self {
        self.ops.push(op);
        self
    }

    /// Bytes of keys and values.
    fn bytes(&self) -> usize {
        let compares = self.compares.iter().map(|compare| compare.key().len());
        let ops = self.ops.iter().map(|op| match op {
            Op::Put { key, value, .. } => key.len() + value.len(),
            Op::Delete { key } => key.len(),
        });
        compares.chain(ops).sum()
    }

    /// Checks the limits and the keys.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] says which key or limit.
    pub(crate) fn validate(&self, limits: Limits) -> Result<(), StoreError> {
        for (what, count) in [("compares", self.compares.len()), ("ops", self.ops.len())] {
            if count > limits.ops {
                return Err(StoreError::Invalid(format!(
                    "a transaction has at most {} {what} in this store, not {count}",
                    limits.ops
                )));
            }
        }
        let bytes = self.bytes();
        if bytes > limits.bytes {
            return Err(StoreError::Invalid(format!(
                "a transaction has at most {} bytes of keys and values in this store, not {bytes}",
                limits.bytes
            )));
        }
        for compare in &self.compares {
            validate_key(compare.key())?;
        }
        let mut seen = HashSet::with_capacity(self.ops.len());
        for op in &self.ops {
            let key = op.key();
            validate_key(key)?;
            if key == LEADER_KEY {
                return Err(StoreError::Invalid(format!(
                    "key `{LEADER_KEY}` is written by campaigns only"
                )));
            }
            if !seen.insert(key) {
                return Err(StoreError::Invalid(format!(
                    "key `{key}` is changed twice in one transaction"
                )));
            }
            if let Op::Put { value, .. } = op
                && value.len() > MAX_VALUE
            {
                return Err(StoreError::Invalid(format!(
                    "value of `{key}` has {} bytes, more than {MAX_VALUE}",
                    value.len()
                )));
            }
        }
        Ok(())
    }
}

/// What came of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Durable, as this revision. A transaction that changed nothing gets the latest one.
    Committed(Revision),
    /// A condition did not hold; nothing was changed.
    Conflict,
}

/// Keys are printable ASCII without space, so that `prefix + DEL` bounds every key with the prefix.
pub(crate) fn validate_key(key: &str) -> Result<(), StoreError> {
    if key.is_empty() || key.len() > MAX_KEY {
        return Err(StoreError::Invalid(format!(
            "a key has 1 to {MAX_KEY} bytes, not {}",
            key.len()
        )));
    }
    validate_prefix(key)
}

pub(crate) fn validate_prefix(prefix: &str) -> Result<(), StoreError> {
    match prefix.chars().find(|c| !c.is_ascii_graphic()) {
        None => Ok(()),
        Some(c) => Err(StoreError::Invalid(format!(
            "key {prefix:?} has {c:?}: keys are printable ascii without space"
        ))),
    }
}
