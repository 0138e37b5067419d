use crate::txn::{validate_key, validate_prefix};
use crate::{Entry, MAX_PAGE, Revision, StoreError};

/// Which entries to read: those whose key has a prefix, in key order, page by page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    pub(crate) prefix: String,
    pub(crate) after: Option<String>,
    pub(crate) limit: usize,
    pub(crate) reverse: bool,
}

impl Range {
    /// Every key with this prefix, in ascending order, a page of [`MAX_PAGE`].
    pub fn prefix(prefix: impl Into<String>) -> Self {
        Self {
            prefix: prefix.into(),
            after: None,
            limit: MAX_PAGE,
            reverse: false,
        }
    }

    /// Only what comes after this key in the order of the range (which need not exist).
    #[must_use]
    pub fn after(mut self, key: impl Into<String>) -> Self {
        self.after = Some(key.into());
        self
    }

    /// At most this many entries; more than [`MAX_PAGE`] is [`MAX_PAGE`].
    #[must_use]
    pub fn limit(mut self, limit: usize) -> Self {
        self.limit = limit.min(MAX_PAGE);
        self
    }

    /// Descending order.
    #[must_use]
    pub fn reverse(mut self) -> Self {
        self.reverse = true;
        self
    }

    pub(crate) fn validate(&self) -> Result<(), StoreError> {
        validate_prefix(&self.prefix)?;
        self.after.as_deref().map_or(Ok(()), validate_key)
    }

    /// An upper bound of every key with the prefix, itself no key.
    pub(crate) fn end(&self) -> String {
        format!("{}\u{7f}", self.prefix)
    }
}

/// Entries of a range, read at one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// In the order of the range.
    pub entries: Vec<Entry>,
    /// Latest revision at the time of the read: a watch from the next one misses nothing.
    pub revision: Revision,
    /// Whether there are entries after the last of these.
    pub more: bool,
}
