//! The folder of the registry's blobs, which the coordinators of one store share. A file in it and a
//! key in the store name it, so that a folder that is not the shared one is told apart.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use espalier_registry::blocking;
use espalier_store::{Compare, Leader, Op, Store, Txn};

use crate::codec::{decode, encode};
use crate::error::Error;
use crate::keys;

/// Holds the folder's identity.
const FILE: &str = "folder-id";

/// Why the folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// It is not the one whose blobs the store knows.
    #[error(
        "data folder {} is not the one of the other coordinators ({}, theirs is {expected}): mount the \
         shared folder there, or name it with --data-dir",
        path.display(),
        found.as_deref().map_or("it is new".to_owned(), |id| format!("it is {id}"))
    )]
    Foreign {
        /// The folder.
        path: PathBuf,
        /// What it is.
        found: Option<String>,
        /// What it should be.
        expected: String,
    },
    /// Its identity cannot be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The store failed.
    #[error(transparent)]
    State(#[from] Error),
}

/// Refuses a folder that is plainly another than that of the store.
pub(crate) async fn check(store: &Store, dir: &Path) -> Result<(), FolderError> {
    let expected = known(store).await?;
    match expected {
        Some(expected) => same(dir, read(dir).await?, expected),
        None => Ok(()),
    }
}

/// As [`check`]; the first leader of a store gives it the folder.
pub(crate) async fn claim(leader: &Leader, dir: &Path) -> Result<(), FolderError> {
    let found = read(dir).await?;
    if let Some(expected) = known(leader.store()).await? {
        return same(dir, found, expected);
    }
    let id = match found {
        Some(id) => id,
        None => make(dir).await?,
    };
    let txn = Txn::new()
        .when(Compare::Absent(keys::FOLDER.to_owned()))
        .then(Op::put(keys::FOLDER, encode(&id)));
    leader.commit(txn).await.map_err(Error::from)?;
    Ok(())
}

async fn known(store: &Store) -> Result<Option<String>, Error> {
    let entry = store.get(keys::FOLDER).await?;
    Ok(entry.as_ref().map(decode).transpose()?)
}

fn same(dir: &Path, found: Option<String>, expected: String) -> Result<(), FolderError> {
    if found.as_ref() == Some(&expected) {
        return Ok(());
    }
    Err(FolderError::Foreign {
        path: dir.to_owned(),
        found,
        expected,
    })
}

async fn read(dir: &Path) -> Result<Option<String>, FolderError> {
    let path = dir.join(FILE);
    blocking(move || match fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(FolderError::Io {
            action: "read",
            path,
            source,
        }),
    })
    .await
}

/// Gives the folder an identity, durably: the store is told of it next.
async fn make(dir: &Path) -> Result<String, FolderError> {
    let id = uuid::Uuid::new_v4().to_string();
    let (dir, path) = (dir.to_owned(), dir.join(FILE));
    blocking(move || {
        let write = || {
            let mut file = File::create_new(&path)?;
            file.write_all(format!("{id}\n").as_bytes())?;
            file.sync_all()?;
            File::open(dir)?.sync_all()
        };
        match write() {
            Ok(()) => Ok(id),
            Err(source) => Err(FolderError::Io {
                action: "write",
                path: path.clone(),
                source,
            }),
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use espalier_store::Options;

    use super::*;

    #[tokio::test]
    async fn a_folder_that_is_not_shared_is_told_apart() {
        let store = Store::in_memory(Options::default()).await.unwrap();
        let (shared, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        check(&store, shared.path()).await.unwrap();
        let leader = store.campaign("a").await.unwrap();
        claim(&leader, shared.path()).await.unwrap();
        let leader = store.campaign("b").await.unwrap();
        claim(&leader, shared.path()).await.unwrap();
        check(&store, shared.path()).await.unwrap();
        for refused in [
            check(&store, other.path()).await.unwrap_err(),
            claim(&leader, other.path()).await.unwrap_err(),
        ] {
            let text = refused.to_string();
            assert!(text.contains("it is new, theirs is "), "{text}");
            assert!(text.contains("--data-dir"), "{text}");
        }
        // Another deployment's.
        let theirs = Store::in_memory(Options::default()).await.unwrap();
        let leader = theirs.campaign("c").await.unwrap();
        claim(&leader, other.path()).await.unwrap();
        let refused = check(&store, other.path()).await.unwrap_err();
        assert!(refused.to_string().contains("(it is "), "{refused}");
    }
}
