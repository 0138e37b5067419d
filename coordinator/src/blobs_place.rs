//! Where the registry's chunks lie: a folder or a bucket, which belongs to one store and is shared by
//! the coordinators of that store alone. A name in it and in the store ties the two, so that a place
//! that is not the shared one is told apart, and no collection takes another deployment's chunks for
//! garbage.

use std::fmt;
use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use espalier_registry::{Blobs, Bucket, Patience, RegistryError, blocking};
use espalier_store::{Compare, Leader, Op, Store, Txn};
use serde::{Deserialize, Serialize};

use crate::codec::{decode, encode};
use crate::error::Error;
use crate::keys;
use crate::server::{BlobsOptions, Options, StoreOptions};

/// Holds a folder's identity.
const FILE: &str = "folder-id";

/// Why the place cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// It is not the one whose chunks the store knows.
    #[error(
        "{place} is not where the chunks of this deployment lie ({}, that is {expected}): {remedy}",
        found.as_deref().map_or("it is new".to_owned(), |id| format!("it is {id}"))
    )]
    Foreign {
        /// The place.
        place: String,
        /// What it is.
        found: Option<String>,
        /// What it should be.
        expected: String,
        /// What to do.
        remedy: &'static str,
    },
    /// It belongs to another deployment, which would lose its chunks to this one's collections.
    #[error(
        "{place} holds the chunks of another deployment ({found}): name a place of this one's own; if \
         that deployment is no more and its chunks may go, remove `folder-id` there"
    )]
    Taken {
        /// The place.
        place: String,
        /// Whose it is.
        found: String,
    },
    /// A folder's identity cannot be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A bucket cannot be read or written.
    #[error(transparent)]
    Bucket(#[from] RegistryError),
    /// The store failed.
    #[error(transparent)]
    State(#[from] Error),
}

/// Where the chunks lie.
#[derive(Debug)]
pub(crate) struct Place {
    at: At,
    /// Its identity, once it was seen to have one: it never has another, and a term that begins must not
    /// wait for a bucket.
    seen: OnceLock<String>,
}

#[derive(Debug)]
enum At {
    /// In `blobs/` of this folder, of this coordinator alone.
    Own(PathBuf),
    /// In `blobs/` of this folder, which several coordinators mount.
    Shared(PathBuf),
    /// In a bucket.
    Bucket(Bucket),
}

/// What the store knows of the place.
#[derive(Debug, Serialize, Deserialize)]
struct Claim {
    id: String,
    /// The place is known to say so too.
    made: bool,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.at {
            At::Own(dir) | At::Shared(dir) => write!(f, "data folder {}", dir.display()),
            At::Bucket(bucket) => f.write_str(bucket.url()),
        }
    }
}

impl Place {
    /// The place that the options name, as [`Place::check`] has it. A bucket is looked at early: whether
    /// all that is needed works.
    pub(crate) async fn open(options: &Options, store: &Store) -> Result<Self, PlaceError> {
        let dir = options.data_dir.clone();
        let place = Self::new(match (&options.blobs, &options.store) {
            (BlobsOptions::Bucket { url, settings }, _) => {
                At::Bucket(Bucket::open(url, settings.pairs(), Patience::default()).await?)
            }
            (BlobsOptions::Folder, StoreOptions::Embedded) => At::Own(dir),
            (BlobsOptions::Folder, StoreOptions::Etcd(_)) => At::Shared(dir),
        });
        place.check(store).await?;
        Ok(place)
    }

    fn new(at: At) -> Self {
        Self {
            at,
            seen: OnceLock::new(),
        }
    }

    /// Opens the chunks.
    pub(crate) async fn blobs(&self, quota: Option<u64>) -> Result<Blobs, RegistryError> {
        match &self.at {
            At::Own(dir) | At::Shared(dir) => Blobs::with_quota(dir.join("blobs"), quota).await,
            At::Bucket(bucket) => Blobs::in_bucket(bucket.clone(), quota).await,
        }
    }

    /// Refuses a place that is plainly another than that of the store.
    async fn check(&self, store: &Store) -> Result<(), PlaceError> {
        if matches!(self.at, At::Own(_)) {
            return Ok(());
        }
        // The store is told before the place: read the other way around, the two would seem to differ
        // while another coordinator claims the place.
        let found = self.read().await?;
        match (known(store).await?, found) {
            (Some(claim), found) if claim.made => self.same(found, claim.id),
            (Some(claim), Some(found)) if found != claim.id => Err(self.taken(found)),
            (None, Some(found)) => Err(self.taken(found)),
            _ => Ok(()),
        }
    }

    /// As [`Place::check`]; the first leader of a store takes the place for it. Ended anywhere, it is
    /// gone on with by the next leader.
    pub(crate) async fn claim(&self, leader: &Leader) -> Result<(), PlaceError> {
        self.check(leader.store()).await?;
        if matches!(self.at, At::Own(_)) {
            return Ok(());
        }
        let claim = match known(leader.store()).await? {
            Some(claim) if claim.made => return Ok(()),
            Some(claim) => claim,
            None => {
                let id = uuid::Uuid::new_v4().to_string();
                let claim = Claim { id, made: false };
                let txn = Txn::new()
                    .when(Compare::Absent(keys::FOLDER.to_owned()))
                    .then(Op::put(keys::FOLDER, encode(&claim)));
                leader.commit(txn).await.map_err(Error::from)?;
                claim
            }
        };
        if self.read().await?.is_none() {
            self.write(&claim.id).await?;
        }
        match self.read().await? {
            Some(found) if found != claim.id => return Err(self.taken(found)),
            found => self.same(found, claim.id.clone())?,
        }
        let made = Claim {
            made: true,
            ..claim
        };
        let txn = Txn::new().then(Op::put(keys::FOLDER, encode(&made)));
        leader.commit(txn).await.map_err(Error::from)?;
        Ok(())
    }

    fn taken(&self, found: String) -> PlaceError {
        PlaceError::Taken {
            place: self.to_string(),
            found,
        }
    }

    fn same(&self, found: Option<String>, expected: String) -> Result<(), PlaceError> {
        if found.as_ref() == Some(&expected) {
            return Ok(());
        }
        Err(PlaceError::Foreign {
            place: self.to_string(),
            found,
            expected,
            remedy: match self.at {
                At::Bucket(_) => "name the bucket and prefix of the other coordinators (--blobs)",
                _ => "mount the folder of the other coordinators there, or name it with --data-dir",
            },
        })
    }

    async fn read(&self) -> Result<Option<String>, PlaceError> {
        if let Some(seen) = self.seen.get() {
            return Ok(Some(seen.clone()));
        }
        let found = match &self.at {
            At::Bucket(bucket) => bucket.identity().await?,
            At::Own(dir) | At::Shared(dir) => read_line(&dir.join(FILE)).await?,
        };
        Ok(found.map(|found| self.seen.get_or_init(|| found).clone()))
    }

    async fn write(&self, id: &str) -> Result<(), PlaceError> {
        let dir = match &self.at {
            At::Bucket(bucket) => return Ok(bucket.claim(id).await?),
            At::Own(dir) | At::Shared(dir) => dir,
        };
        let path = dir.join(FILE);
        write_whole(dir, &path, id)
            .await
            .map_err(|source| PlaceError::Io {
                action: "write",
                path,
                source,
            })
    }
}

async fn read_line(path: &Path) -> Result<Option<String>, PlaceError> {
    let path = path.to_owned();
    blocking(move || match fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(PlaceError::Io {
            action: "read",
            path,
            source,
        }),
    })
    .await
}

/// Makes a file of one line, there whole and durably or not at all.
async fn write_whole(dir: &Path, path: &Path, line: &str) -> std::io::Result<()> {
    let (dir, path, line) = (dir.to_owned(), path.to_owned(), format!("{line}\n"));
    blocking(move || {
        let partial = path.with_extension("partial");
        let mut file = File::create(&partial)?;
        file.write_all(line.as_bytes())?;
        file.sync_all()?;
        fs::rename(&partial, path)?;
        File::open(dir)?.sync_all()
    })
    .await
}

async fn known(store: &Store) -> Result<Option<Claim>, Error> {
    let entry = store.get(keys::FOLDER).await?;
    Ok(entry.as_ref().map(decode).transpose()?)
}

#[cfg(test)]
mod tests {
    use espalier_store::Options;
    use espalier_tests::S3;

    use super::*;

    async fn store() -> Store {
        Store::in_memory(Options::default()).await.unwrap()
    }

    /// Two places that nobody has claimed.
    async fn is_told_apart(shared: &Place, other: &Place, flag: &str) {
        let mine = store().await;
        shared.check(&mine).await.unwrap();
        for name in ["a", "b"] {
            let leader = mine.campaign(name).await.unwrap();
            shared.claim(&leader).await.unwrap();
        }
        shared.check(&mine).await.unwrap();
        let leader = mine.campaign("c").await.unwrap();
        for refused in [other.check(&mine).await, other.claim(&leader).await] {
            let text = refused.unwrap_err().to_string();
            assert!(text.contains("(it is new, that is "), "{text}");
            assert!(text.contains(flag), "{text}");
        }
        // Another deployment may have the other place, and not this one.
        let theirs = store().await;
        let leader = theirs.campaign("d").await.unwrap();
        for refused in [shared.check(&theirs).await, shared.claim(&leader).await] {
            let text = refused.unwrap_err().to_string();
            assert!(text.contains("another deployment"), "{text}");
            assert!(text.contains("`folder-id`"), "{text}");
        }
        other.claim(&leader).await.unwrap();
        let refused = other.check(&mine).await.unwrap_err();
        assert!(refused.to_string().contains("(it is "), "{refused}");
    }

    #[tokio::test]
    async fn a_folder_that_is_not_shared_is_told_apart() {
        let (shared, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let place = |dir: &tempfile::TempDir| Place::new(At::Shared(dir.path().to_owned()));
        is_told_apart(&place(&shared), &place(&other), "--data-dir").await;
    }

    async fn bucket(s3: &S3) -> Place {
        let url = format!("s3://{}/prefix", s3.bucket());
        let opened = Bucket::open(&url, s3.settings(), Patience::default()).await;
        Place::new(At::Bucket(opened.unwrap()))
    }

    #[tokio::test]
    async fn a_bucket_that_is_not_shared_is_told_apart() {
        let Some(s3) = S3::shared() else { return };
        is_told_apart(&bucket(s3).await, &bucket(s3).await, "--blobs").await;
    }

    #[tokio::test]
    async fn a_claim_that_was_cut_off_is_gone_on_with() {
        for in_place in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let place = Place::new(At::Shared(dir.path().to_owned()));
            let store = store().await;
            let leader = store.campaign("a").await.unwrap();
            let begun = Claim {
                id: "mine".to_owned(),
                made: false,
            };
            let txn = Txn::new().then(Op::put(keys::FOLDER, encode(&begun)));
            leader.commit(txn).await.unwrap();
            if in_place {
                place.write("mine").await.unwrap();
            }
            place.check(&store).await.unwrap();
            place.claim(&leader).await.unwrap();
            assert_eq!(place.read().await.unwrap().as_deref(), Some("mine"));
            assert!(known(&store).await.unwrap().unwrap().made);
        }
    }
}
