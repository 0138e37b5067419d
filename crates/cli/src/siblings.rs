//! The other programs of Espalier, which lie beside this one.

use std::path::PathBuf;

use anyhow::Context as _;

use crate::exit::Failure;

/// Path of `name`, beside the running program.
///
/// # Errors
/// When there is no such file.
pub(crate) fn find(name: &str) -> Result<PathBuf, Failure> {
    let own = std::env::current_exe().context("finding this program's own path")?;
    let path = own.with_file_name(name);
    if path.is_file() {
        Ok(path)
    } else {
        Err(anyhow::anyhow!(
            "{} is missing: build it with `make build`; it belongs beside {}",
            path.display(),
            own.display()
        )
        .into())
    }
}
