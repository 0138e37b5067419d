//! Objects in memory, for models of the registry.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use tonic::async_trait;

use super::{Grown, Head, Listed, Objects, Page};
use crate::chunks::Stored;
use crate::{Digest, RegistryError};

/// Clones share the objects, as processes one after the other share a folder.
#[derive(Clone, Debug, Default)]
pub(crate) struct Memory(Arc<Mutex<BTreeMap<Digest, Stored>>>);

impl Memory {
    pub(crate) fn objects(&self) -> MutexGuard<'_, BTreeMap<Digest, Stored>> {
        self.0.lock().expect("whole")
    }
}

#[async_trait]
impl Objects for Memory {
    async fn put(&self, objects: Vec<(Digest, Stored)>) -> Result<Grown, RegistryError> {
        let mut all = self.objects();
        let mut grown = Grown::default();
        for (digest, stored) in objects {
            grown.bytes += stored.data.len() as i64;
            match all.insert(digest, stored) {
                Some(before) => grown.bytes -= before.data.len() as i64,
                None => grown.objects += 1,
            }
        }
        Ok(grown)
    }

    async fn get(&self, digest: Digest) -> Result<Option<Stored>, RegistryError> {
        Ok(self.objects().get(&digest).cloned())
    }

    async fn head(&self, digests: Vec<Digest>) -> Result<Vec<Option<Head>>, RegistryError> {
        let all = self.objects();
        let head = |digest| {
            all.get(digest).map(|stored: &Stored| Head {
                size: stored.size,
                stored: stored.data.len() as u64,
            })
        };
        Ok(digests.iter().map(head).collect())
    }

    async fn delete(&self, digests: Vec<Digest>) -> Result<u64, RegistryError> {
        let mut all = self.objects();
        let removed = digests.iter().filter_map(|digest| all.remove(digest));
        Ok(removed.map(|stored| stored.data.len() as u64).sum())
    }

    async fn list(&self, after: Option<Page>) -> Result<Listed, RegistryError> {
        let digit = match after {
            Some(Page::Shard(digit)) => digit,
            _ => 0,
        };
        let objects = self
            .objects()
            .iter()
            .filter(|(digest, _)| digest.hex().starts_with(&format!("{digit:x}")))
            .map(|(digest, stored)| (*digest, stored.data.len() as u64))
            .collect();
        Ok(Listed {
            objects,
            next: (digit < 15).then_some(Page::Shard(digit + 1)),
        })
    }

    async fn set_aside(&self, digest: Digest) -> Result<u64, RegistryError> {
        self.delete(vec![digest]).await
    }

    async fn available(&self) -> Result<Option<u64>, RegistryError> {
        Ok(None)
    }
}
