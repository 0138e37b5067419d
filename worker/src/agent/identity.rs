//! Who this worker is, and that it is the only one in its folder.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use thiserror::Error;
use uuid::Uuid;

/// A worker's folder, locked for as long as this lives.
#[derive(Debug)]
pub(crate) struct Home {
    /// Identity of the worker, kept over its restarts.
    pub(crate) worker_id: String,
    /// Folder of the gangs' files.
    pub(crate) runs: PathBuf,
    _lock: File,
}

/// Why the worker has no identity.
#[derive(Debug, Error)]
pub(crate) enum IdentityError {
    /// Another agent uses the folder.
    #[error(
        "{dir} is in use by another worker: stop it, or give this one a folder of its own with --dir"
    )]
    InUse {
        /// The folder.
        dir: PathBuf,
    },
    /// The identity has characters it may not have.
    #[error("worker id {id:?} from {origin} is not 1 to 63 of a-z, 0-9, '-', '_' and '.'")]
    BadId {
        /// The identity.
        id: String,
        /// Where it comes from.
        origin: String,
    },
    /// A file could not be read or written.
    #[error("cannot {operation} {path}: {source}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

impl Home {
    /// Locks `dir`, made if need be, and reads or makes the identity. What an earlier process left
    /// of its gangs is removed: its checkpoints are in the registry or were never durable.
    ///
    /// # Errors
    /// When another agent holds the folder, or it cannot be used.
    pub(crate) fn open(dir: &Path, id: Option<&str>) -> Result<Self, IdentityError> {
        make_dir(dir)?;
        let dir = fs::canonicalize(dir).map_err(failed("resolve", dir))?;
        let lock = lock(&dir)?;
        let worker_id = match id {
            Some(id) => checked(id, "--id")?,
            None => kept_id(&dir)?,
        };
        let runs = dir.join("runs");
        match fs::remove_dir_all(&runs) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("remove", &runs)(error));
            }
            _ => make_dir(&runs)?,
        }
        Ok(Self {
            worker_id,
            runs,
            _lock: lock,
        })
    }
}

fn lock(dir: &Path) -> Result<File, IdentityError> {
    let path = dir.join("lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(failed("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(IdentityError::InUse {
            dir: dir.to_path_buf(),
        }),
        Err(TryLockError::Error(error)) => Err(failed("lock", &path)(error)),
    }
}

fn kept_id(dir: &Path) -> Result<String, IdentityError> {
    let path = dir.join("worker-id");
    match fs::read_to_string(&path) {
        Ok(text) => checked(text.trim_end(), &path.display().to_string()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let id = Uuid::new_v4().to_string();
            write_durably(dir, &path, &id).map_err(failed("write", &path))?;
            Ok(id)
        }
        Err(error) => Err(failed("read", &path)(error)),
    }
}

fn write_durably(dir: &Path, path: &Path, text: &str) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = File::create(&new)?;
    writeln!(file, "{text}")?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    File::open(dir)?.sync_all()
}

fn checked(id: &str, origin: &str) -> Result<String, IdentityError> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
    if (1..=63).contains(&id.len()) && id.chars().all(allowed) {
        return Ok(id.to_owned());
    }
    Err(IdentityError::BadId {
        id: id.to_owned(),
        origin: origin.to_owned(),
    })
}

fn make_dir(path: &Path) -> Result<(), IdentityError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(failed("make", path))
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> IdentityError {
    move |source| IdentityError::Io {
        operation,
        path: path.to_path_buf(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_identity_outlives_the_process_and_leftovers_do_not() {
        let dir = tempfile::tempdir().unwrap();
        let first = Home::open(dir.path(), None).unwrap();
        fs::create_dir(first.runs.join("j1-5")).unwrap();
        let id = first.worker_id.clone();
        drop(first);
        let second = Home::open(dir.path(), None).unwrap();
        assert_eq!(second.worker_id, id);
        assert_eq!(fs::read_dir(&second.runs).unwrap().count(), 0);
    }

    #[test]
    fn a_folder_serves_one_agent() {
        let dir = tempfile::tempdir().unwrap();
        let first = Home::open(dir.path(), Some("w-0")).unwrap();
        assert_eq!(first.worker_id, "w-0");
        let error = Home::open(dir.path(), Some("w-1")).unwrap_err();
        assert!(matches!(error, IdentityError::InUse { .. }), "{error}");
    }

    #[test]
    fn bad_identities_name_where_they_come_from() {
        let dir = tempfile::tempdir().unwrap();
        let error = Home::open(dir.path(), Some("A b")).unwrap_err().to_string();
        assert!(error.contains("--id"), "{error}");
        fs::write(dir.path().join("worker-id"), "\n").unwrap();
        let error = Home::open(dir.path(), None).unwrap_err().to_string();
        assert!(error.contains("worker-id"), "{error}");
    }
}
