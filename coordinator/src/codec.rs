//! JSON values in the store.

use espalier_store::Entry;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A stored value that cannot be read: the store was written by another version, or is damaged.
#[derive(Debug, thiserror::Error)]
#[error("the stored value of `{key}` cannot be read: {problem}")]
pub struct Unreadable {
    key: String,
    problem: String,
}

impl Unreadable {
    /// A value that does not decode.
    pub(crate) fn new(key: &str, problem: impl ToString) -> Self {
        Self {
            key: key.to_owned(),
            problem: problem.to_string(),
        }
    }
}

pub(crate) fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    // Our records are trees of strings, numbers and maps with text keys: nothing JSON refuses.
    #[allow(clippy::expect_used)]
    serde_json::to_vec(value).expect("records are plain json")
}

pub(crate) fn decode<T: DeserializeOwned>(entry: &Entry) -> Result<T, Unreadable> {
    serde_json::from_slice(&entry.value).map_err(|problem| Unreadable::new(&entry.key, problem))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn numbers_as_map_keys_survive() {
        let value = BTreeMap::from([(3u32, "c".to_owned())]);
        let entry = Entry {
            key: "k".to_owned(),
            value: encode(&value),
            create_revision: Default::default(),
            mod_revision: Default::default(),
        };
        assert_eq!(decode::<BTreeMap<u32, String>>(&entry).unwrap(), value);
        let damaged = Entry {
            value: b"{".to_vec(),
            ..entry
        };
        let error = decode::<BTreeMap<u32, String>>(&damaged).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("the stored value of `k` cannot be read: ")
        );
    }
}
