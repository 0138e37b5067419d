//! Objects in a bucket of an S3-compatible store, as files lie in a folder:
//!
//! ```text
//! <prefix>/chunks/a/<64 hex digits>   a is the first digit
//! <prefix>/damaged/<64 hex digits>    found not to have its digest
//! <prefix>/folder-id                  the deployment whose chunks these are
//! <prefix>/probe/<a name>             while it is opened
//! ```
//!
//! A put that is answered is durable and whole: the store verifies the SHA-256 that signs it. Each call
//! is tried a few times within [`Patience`], then it is the client's turn.

mod identity;
mod open;
mod probe;

use std::sync::Arc;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use object_store::path::Path;
use object_store::{
    Error, GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions,
    PutPayload,
};
use prost::bytes::Bytes;
use tonic::async_trait;

use super::format::{self, HEADER};
use super::{Grown, Head, Listed, Objects, Page};
use crate::chunks::Stored;
use crate::failpoint::reach;
use crate::{Digest, MAX_CHUNK, RegistryError};
pub use open::Patience;

/// Puts and copies of one batch at once: at most 4 MiB of chunks are in a batch.
const PUTS: usize = 8;

/// Looks at objects at once, of one call.
const HEADS: usize = 32;

/// Objects in a page of a list: what a store gives at once.
const PAGE: usize = 1000;

/// Objects in a bucket, below a prefix. Clones share it.
#[derive(Clone, Debug)]
pub struct Bucket {
    store: Arc<dyn ObjectStore>,
    /// As in its URL: `s3://bucket/prefix`.
    url: Arc<str>,
    /// Of all keys; may be empty.
    prefix: Arc<str>,
    page: usize,
}

/// What lies under a key.
enum Found {
    Nothing,
    /// So many bytes that are no whole chunk, as far as can be told from their beginning.
    Damaged(u64),
    Whole(Head),
}

impl Bucket {
    /// The bucket, as its URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    fn key(&self, rest: &str) -> Path {
        Path::from(format!("{}/{rest}", self.prefix))
    }

    fn chunk(&self, digest: Digest) -> Path {
        let hex = digest.hex();
        self.key(&format!("chunks/{}/{hex}", &hex[..1]))
    }

    /// An error of the store, with the object and what to do.
    fn failed(&self, action: &'static str, key: &Path) -> impl FnOnce(Error) -> RegistryError {
        let bucket = self.url.strip_prefix("s3://").unwrap_or(&self.url);
        let bucket = bucket.split('/').next().unwrap_or_default();
        let object = format!("s3://{bucket}/{key}");
        move |error| {
            let (remedy, transient) = match error {
                Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => (
                    "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and what they may do there",
                    false,
                ),
                Error::NotFound { .. } => ("make the bucket, or name another", false),
                Error::Generic { .. } => (
                    "check AWS_ENDPOINT_URL, AWS_REGION and that the store is up",
                    true,
                ),
                _ => ("look at the store's log", false),
            };
            RegistryError::Bucket {
                action,
                object,
                problem: told(&error),
                remedy,
                transient,
            }
        }
    }

    async fn create(&self, key: &Path, payload: PutPayload) -> Result<(), Error> {
        let options = PutOptions::from(PutMode::Create);
        self.store.put_opts(key, payload, options).await.map(drop)
    }

    async fn look(&self, digest: Digest) -> Result<Found, RegistryError> {
        let key = self.chunk(digest);
        let options = GetOptions {
            range: Some(GetRange::Bounded(0..HEADER as u64)),
            ..GetOptions::default()
        };
        let begun = async {
            let found = self.store.get_opts(&key, options).await?;
            let stored = found.meta.size;
            Ok((found.bytes().await?, stored))
        };
        match begun.await {
            Ok((begin, stored)) => Ok(match format::head(&begin, stored) {
                Some(head) => Found::Whole(head),
                None => Found::Damaged(stored),
            }),
            Err(Error::NotFound { .. }) => Ok(Found::Nothing),
            // An empty object has no range that could be given.
            Err(error) => match self.store.head(&key).await {
                Ok(meta) if meta.size == 0 => Ok(Found::Damaged(0)),
                _ => Err(self.failed("read", &key)(error)),
            },
        }
    }

    /// Bytes that objects take, 0 for each that is not there.
    async fn sizes(&self, digests: &[Digest]) -> Result<u64, RegistryError> {
        let size = |digest: Digest| async move {
            let key = self.chunk(digest);
            match self.store.head(&key).await {
                Ok(meta) => Ok(meta.size),
                Err(Error::NotFound { .. }) => Ok(0),
                Err(error) => Err(self.failed("look at", &key)(error)),
            }
        };
        let sizes = stream::iter(digests.iter().copied().map(size)).buffer_unordered(HEADS);
        sizes
            .try_fold(0, |sum, size| async move { Ok(sum + size) })
            .await
    }

    async fn put_one(&self, digest: Digest, object: Stored) -> Result<Grown, RegistryError> {
        let key = self.chunk(digest);
        let header = format::header(&object).map_err(RegistryError::io(format!("write {key}")))?;
        let stored = (HEADER + object.data.len()) as u64;
        let payload: PutPayload = [Bytes::copy_from_slice(&header), object.data]
            .into_iter()
            .collect();
        let new = Grown {
            objects: 1,
            bytes: stored.cast_signed(),
        };
        let replaced = match self.create(&key, payload.clone()).await {
            Ok(()) => {
                reach("object put");
                return Ok(new);
            }
            // Another coordinator was faster, an answer was lost, or what is there is damaged.
            Err(Error::AlreadyExists { .. }) => match self.look(digest).await? {
                Found::Whole(head) if head.size == object.size => return Ok(new),
                Found::Whole(Head { stored, .. }) | Found::Damaged(stored) => Some(stored),
                Found::Nothing => None,
            },
            Err(error) => return Err(self.failed("write", &key)(error)),
        };
        let put = self.store.put(&key, payload).await;
        put.map_err(self.failed("write", &key))?;
        reach("object replaced");
        Ok(Grown {
            objects: u64::from(replaced.is_none()),
            bytes: stored.cast_signed() - replaced.unwrap_or(0).cast_signed(),
        })
    }
}

/// What went wrong, shortly: the innermost error, without the pages that a server may add.
fn told(error: &Error) -> String {
    let mut innermost: &dyn std::error::Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string().chars().take(300).collect()
}

#[async_trait]
impl Objects for Bucket {
    async fn put(&self, objects: Vec<(Digest, Stored)>) -> Result<Grown, RegistryError> {
        let puts = objects
            .into_iter()
            .map(|(digest, object)| self.put_one(digest, object));
        stream::iter(puts)
            .buffer_unordered(PUTS)
            .try_fold(Grown::default(), |all, one| async move {
                Ok(Grown {
                    objects: all.objects + one.objects,
                    bytes: all.bytes + one.bytes,
                })
            })
            .await
    }

    async fn get(&self, digest: Digest) -> Result<Option<Stored>, RegistryError> {
        let key = self.chunk(digest);
        let found = match self.store.get(&key).await {
            Ok(found) => found,
            Err(Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(self.failed("read", &key)(error)),
        };
        let most = (HEADER + MAX_CHUNK) as u64;
        if found.meta.size > most {
            return Err(RegistryError::Damaged {
                digest,
                problem: format!("it takes {} bytes, more than {most}", found.meta.size),
            });
        }
        let bytes = found.bytes().await.map_err(self.failed("read", &key))?;
        format::read(digest, bytes).map(Some)
    }

    async fn head(&self, digests: Vec<Digest>) -> Result<Vec<Option<Head>>, RegistryError> {
        let look = |digest| async move {
            Ok(match self.look(digest).await? {
                Found::Whole(head) => Some(head),
                Found::Nothing | Found::Damaged(_) => None,
            })
        };
        let looks = stream::iter(digests.into_iter().map(look));
        looks.buffered(HEADS).try_collect().await
    }

    async fn delete(&self, digests: Vec<Digest>) -> Result<u64, RegistryError> {
        let freed = self.sizes(&digests).await?;
        let keys: Vec<Path> = digests.into_iter().map(|d| self.chunk(d)).collect();
        let first = keys.first().cloned().unwrap_or_default();
        let keys = stream::iter(keys.into_iter().map(Ok)).boxed();
        let mut deleted = self.store.delete_stream(keys);
        while let Some(key) = deleted.next().await {
            match key {
                Ok(_) | Err(Error::NotFound { .. }) => reach("object removed"),
                Err(error) => return Err(self.failed("remove", &first)(error)),
            }
        }
        Ok(freed)
    }

    async fn list(&self, after: Option<Page>) -> Result<Listed, RegistryError> {
        let chunks = self.key("chunks");
        let listed = match after {
            Some(Page::After(digest)) => self
                .store
                .list_with_offset(Some(&chunks), &self.chunk(digest)),
            _ => self.store.list(Some(&chunks)),
        };
        let page = listed.take(self.page).try_collect().await;
        let page: Vec<ObjectMeta> = page.map_err(self.failed("list", &chunks))?;
        let full = page.len() == self.page;
        // What has no digest for a name was not put here by this program.
        let digest = |meta: &ObjectMeta| -> Option<Digest> {
            let digest = format!("sha256:{}", meta.location.filename()?);
            digest
                .parse()
                .ok()
                .filter(|d| self.chunk(*d) == meta.location)
        };
        let objects: Vec<(Digest, u64)> = page
            .iter()
            .filter_map(|meta| Some((digest(meta)?, meta.size)))
            .collect();
        let last = objects.last().map(|(digest, _)| Page::After(*digest));
        let next = last.filter(|_| full);
        if full && next.is_none() {
            return Err(RegistryError::Bucket {
                action: "list",
                object: format!("{}/chunks", self.url),
                problem: format!("{} objects in a row are no chunks", self.page),
                remedy: "remove what others have put there",
                transient: false,
            });
        }
        Ok(Listed { objects, next })
    }

    async fn set_aside(&self, digest: Digest) -> Result<u64, RegistryError> {
        let from = self.chunk(digest);
        let to = self.key(&format!("damaged/{}", digest.hex()));
        let size = self.sizes(&[digest]).await?;
        match self.store.copy(&from, &to).await {
            Ok(()) => {}
            Err(Error::NotFound { .. }) => return Ok(0),
            Err(error) => return Err(self.failed("put aside", &from)(error)),
        }
        let removed = self.store.delete(&from).await;
        removed.map_err(self.failed("remove", &from))?;
        Ok(size)
    }

    async fn available(&self) -> Result<Option<u64>, RegistryError> {
        Ok(None)
    }
}

#[cfg(test)]
mod tests;
