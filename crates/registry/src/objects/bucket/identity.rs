//! The deployment to which a bucket belongs.

use object_store::{Error, GetOptions, GetRange};

use super::Bucket;
use crate::RegistryError;

/// Holds it: one line.
const KEY: &str = "folder-id";

/// Bytes of it that are read: more than any has.
const MOST: u64 = 256;

impl Bucket {
    /// Whose chunks the bucket holds below its prefix; `None` when nobody has claimed it.
    ///
    /// # Errors
    /// [`RegistryError::Bucket`].
    pub async fn identity(&self) -> Result<Option<String>, RegistryError> {
        let key = self.key(KEY);
        let options = GetOptions {
            range: Some(GetRange::Bounded(0..MOST)),
            ..GetOptions::default()
        };
        let read = async { self.store.get_opts(&key, options).await?.bytes().await };
        match read.await {
            Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).trim().to_owned())),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.failed("read", &key)(error)),
        }
    }

    /// Claims the bucket for a deployment, unless another was faster: [`Bucket::identity`] tells whose it
    /// is then.
    ///
    /// # Errors
    /// [`RegistryError::Bucket`].
    pub async fn claim(&self, identity: &str) -> Result<(), RegistryError> {
        let key = self.key(KEY);
        match self.create(&key, format!("{identity}\n").into()).await {
            Ok(()) | Err(Error::AlreadyExists { .. }) => Ok(()),
            Err(error) => Err(self.failed("write", &key)(error)),
        }
    }
}
