//! Looks early whether a bucket does what is needed, before anything is counted on.

use std::time::Duration;

use futures_util::future::join_all;
use futures_util::{StreamExt as _, TryStreamExt as _};
use object_store::path::Path;
use object_store::{Error, ObjectMeta, ObjectStoreExt as _};
use prost::bytes::Bytes;

use super::Bucket;
use crate::RegistryError;

/// Puts of the same object that are made at once: one of them may make it.
const RIVALS: usize = 4;

/// Most probes of others that are looked at.
const OTHERS: usize = 100;

/// Age after which the probe of a process that was killed is removed.
const LEFT: Duration = Duration::from_secs(3600);

impl Bucket {
    /// # Errors
    /// [`RegistryError::Bucket`] says what does not work.
    pub(super) async fn probe(&self) -> Result<(), RegistryError> {
        let key = self.key(&format!("probe/{}", uuid::Uuid::new_v4()));
        let rivals = (0..RIVALS).map(|number| self.create(&key, vec![number as u8].into()));
        let mut made = Vec::new();
        for (number, created) in join_all(rivals).await.into_iter().enumerate() {
            match created {
                Ok(()) => made.push(number as u8),
                Err(Error::AlreadyExists { .. }) => {}
                Err(error) => return Err(self.failed("write", &key)(error)),
            }
        }
        let verdict = self.judge(&key, &made).await;
        let removed = self.store.delete(&key).await;
        verdict?;
        removed.map_err(self.failed("remove", &key))
    }

    async fn judge(&self, key: &Path, made: &[u8]) -> Result<(), RegistryError> {
        let broken = |action, problem: String, remedy| RegistryError::Bucket {
            action,
            object: self.url.to_string(),
            problem,
            remedy,
            transient: false,
        };
        if made.len() > 1 {
            let problem = format!(
                "it does not heed `If-None-Match: *`: of {RIVALS} puts that each were to make the \
                 same object {} did",
                made.len()
            );
            let remedy = "use a store with conditional puts, or a folder (--data-dir)";
            return Err(broken("use", problem, remedy));
        }
        let read = async { self.store.get(key).await?.bytes().await };
        let read: Bytes = read.await.map_err(self.failed("read", key))?;
        // An answer that was lost leaves it open who made it.
        if !made.is_empty() && read != made {
            let problem = "it gave other bytes than were put".to_owned();
            return Err(broken("use", problem, "do not use this store"));
        }
        let folder = self.key("probe");
        let probes = self.store.list(Some(&folder)).take(OTHERS).try_collect();
        let probes: Vec<ObjectMeta> = probes.await.map_err(self.failed("list", &folder))?;
        let Some(mine) = probes.iter().find(|probe| probe.location == *key) else {
            if probes.len() == OTHERS {
                return Ok(());
            }
            let problem = "an object that was put is not listed".to_owned();
            let remedy = "use a store whose lists are consistent";
            return Err(broken("use", problem, remedy));
        };
        for probe in &probes {
            // By the store's own clock.
            let age = (mine.last_modified - probe.last_modified).to_std();
            if age.is_ok_and(|age| age > LEFT) {
                let removed = self.store.delete(&probe.location).await;
                removed.map_err(self.failed("remove", &probe.location))?;
            }
        }
        Ok(())
    }
}
