//! A checkpoint's folder, wherever the checkpoint is.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use tempfile::TempDir;

use crate::args::Global;
use crate::checkpoint;
use crate::exit::Failure;

/// A folder that is there already, or one that was fetched and goes with this value.
pub(crate) struct Located {
    dir: PathBuf,
    _fetched: Option<TempDir>,
}

impl Located {
    /// `target` is a folder or a reference in the registry.
    ///
    /// # Errors
    /// A checkpoint that cannot be fetched.
    pub(crate) async fn of(global: &Global, target: &str) -> Result<Self, Failure> {
        if Path::new(target).is_dir() {
            return Ok(Self {
                dir: PathBuf::from(target),
                _fetched: None,
            });
        }
        let fetched = tempfile::tempdir().context("making a temporary folder")?;
        let dir = fetched.path().join("checkpoint");
        checkpoint::fetch(global, target, &dir).await?;
        Ok(Self {
            dir,
            _fetched: Some(fetched),
        })
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }
}
