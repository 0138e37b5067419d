use std::path::{Path, PathBuf};

use crate::RegistryError;

/// Blobs in a folder. Clones share it.
#[derive(Clone, Debug)]
pub struct Blobs {
    root: PathBuf,
}

impl Blobs {
    /// Opens the folder, making it if it is not there.
    ///
    /// # Errors
    /// [`RegistryError::Io`].
    pub async fn open(root: impl AsRef<Path>) -> Result<Self, RegistryError> {
        let root = root.as_ref().to_owned();
        tokio::fs::create_dir_all(&root)
            .await
            .map_err(RegistryError::io(format!("make {}", root.display())))?;
        Ok(Self { root })
    }
}
