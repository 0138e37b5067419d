//! What was used least recently goes first: pure, and without a clock.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

/// Keys of things that take bytes, in the order of their last use.
#[derive(Debug)]
pub(super) struct Lru<K> {
    /// (when it was last used, bytes it takes).
    entries: HashMap<K, (u64, u64)>,
    order: BTreeMap<u64, K>,
    /// Uses so far.
    uses: u64,
    bytes: u64,
}

impl<K> Default for Lru<K> {
    fn default() -> Self {
        Self {
            entries: HashMap::new(),
            order: BTreeMap::new(),
            uses: 0,
            bytes: 0,
        }
    }
}

impl<K: Clone + Eq + Hash> Lru<K> {
    /// Bytes that all of them take.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Uses a key, which is new or takes other bytes from now on.
    pub(super) fn insert(&mut self, key: K, bytes: u64) {
        self.remove(&key);
        self.uses += 1;
        self.order.insert(self.uses, key.clone());
        self.entries.insert(key, (self.uses, bytes));
        self.bytes += bytes;
    }

    /// Uses a key, if it is there.
    pub(super) fn touch(&mut self, key: &K) {
        if let Some(&(_, bytes)) = self.entries.get(key) {
            self.insert(key.clone(), bytes);
        }
    }

    pub(super) fn remove(&mut self, key: &K) {
        if let Some((used, bytes)) = self.entries.remove(key) {
            self.order.remove(&used);
            self.bytes -= bytes;
        }
    }

    /// Takes out the least recently used ones until at most `most` bytes are left.
    pub(super) fn shrink(&mut self, most: u64) -> Vec<K> {
        let mut gone = Vec::new();
        while self.bytes > most {
            let Some((_, key)) = self.order.pop_first() else {
                break;
            };
            if let Some((_, bytes)) = self.entries.remove(&key) {
                self.bytes -= bytes;
            }
            gone.push(key);
        }
        gone
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Act {
        Insert(u8, u64),
        Touch(u8),
        Remove(u8),
        Shrink(u64),
    }

    fn act() -> impl Strategy<Value = Act> {
        prop_oneof![
            4 => (0..8_u8, 0..20_u64).prop_map(|(key, bytes)| Act::Insert(key, bytes)),
            3 => (0..8_u8).prop_map(Act::Touch),
            1 => (0..8_u8).prop_map(Act::Remove),
            2 => (0..60_u64).prop_map(Act::Shrink),
        ]
    }

    proptest! {
        /// Against a list, the most recently used last.
        #[test]
        fn it_is_a_list_in_the_order_of_use(acts in prop::collection::vec(act(), 1..60)) {
            let mut lru = Lru::default();
            let mut list: Vec<(u8, u64)> = Vec::new();
            for act in acts {
                match act {
                    Act::Insert(key, bytes) => {
                        lru.insert(key, bytes);
                        list.retain(|(k, _)| *k != key);
                        list.push((key, bytes));
                    }
                    Act::Touch(key) => {
                        lru.touch(&key);
                        if let Some(at) = list.iter().position(|(k, _)| *k == key) {
                            let entry = list.remove(at);
                            list.push(entry);
                        }
                    }
                    Act::Remove(key) => {
                        lru.remove(&key);
                        list.retain(|(k, _)| *k != key);
                    }
                    Act::Shrink(most) => {
                        let mut gone = Vec::new();
                        while list.iter().map(|(_, bytes)| bytes).sum::<u64>() > most {
                            gone.push(list.remove(0).0);
                        }
                        prop_assert_eq!(lru.shrink(most), gone);
                    }
                }
                prop_assert_eq!(lru.bytes(), list.iter().map(|(_, bytes)| bytes).sum::<u64>());
                prop_assert_eq!(lru.entries.len(), list.len());
                let order: Vec<u8> = lru.order.values().copied().collect();
                let expected: Vec<u8> = list.iter().map(|(key, _)| *key).collect();
                prop_assert_eq!(order, expected);
            }
        }
    }
}
