use std::time::Duration;

use espalier_tests::S3;
use object_store::memory::InMemory;

use super::*;
use crate::ChunkId;
use crate::chunks::Encoding;
use crate::objects::conformance;

fn object(bytes: &'static [u8]) -> (Digest, Stored) {
    let stored = Stored {
        encoding: Encoding::Raw,
        size: bytes.len() as u64,
        data: bytes.into(),
    };
    (ChunkId::of(bytes).digest, stored)
}

/// A bucket with small pages, so that lists have several.
async fn small(store: Arc<dyn ObjectStore>) -> Bucket {
    let mut bucket = Bucket::over(store, "b", "some/where").await.expect("opens");
    bucket.page = 4;
    bucket
}

#[tokio::test]
async fn a_store_in_memory_keeps_objects() {
    let store = Arc::new(InMemory::new());
    let open = async || small(Arc::clone(&store) as Arc<dyn ObjectStore>).await;
    let bucket = open().await;
    let damage = async |digest: Digest, bytes: &[u8]| {
        let key = bucket.chunk(digest);
        let put = bucket.store.put(&key, bytes.to_vec().into()).await;
        put.expect("puts");
    };
    conformance::keeps(open, damage).await;
}

#[tokio::test]
async fn a_bucket_keeps_objects() {
    let Some(s3) = S3::shared() else { return };
    let name = s3.bucket();
    let url = format!("s3://{name}/some/where");
    let open = async || {
        let opened = Bucket::open(&url, s3.settings(), Patience::default()).await;
        let mut bucket = opened.expect("opens");
        bucket.page = 4;
        bucket
    };
    let damage = async |digest: Digest, bytes: &[u8]| {
        let hex = digest.hex();
        s3.put(
            &format!("{name}/some/where/chunks/{}/{hex}", &hex[..1]),
            bytes,
        );
    };
    conformance::keeps(open, damage).await;
    let left: Vec<String> = s3.list(&name);
    assert!(
        left.iter()
            .all(|key| key.starts_with("some/where/damaged/")),
        "{left:?}"
    );
}

#[tokio::test]
async fn whoever_claims_a_bucket_first_has_it() {
    let bucket = small(Arc::new(InMemory::new())).await;
    assert_eq!(bucket.identity().await.expect("reads"), None);
    bucket.claim("one").await.expect("claims");
    bucket.claim("two").await.expect("was claimed");
    let found = bucket.identity().await.expect("reads");
    assert_eq!(found.as_deref(), Some("one"));
}

#[tokio::test]
async fn a_store_that_ignores_conditions_is_refused() {
    let Some(s3) = S3::careless() else { return };
    let url = format!("s3://{}", s3.bucket());
    let refused = Bucket::open(&url, s3.settings(), Patience::default()).await;
    let error = refused.expect_err("careless").to_string();
    assert!(error.contains(&url), "{error}");
    assert!(error.contains("`If-None-Match: *`"), "{error}");
    assert!(error.contains("--data-dir"), "{error}");
}

#[tokio::test]
async fn errors_name_the_object_and_what_to_do() {
    let Some(s3) = S3::shared() else { return };
    let refused = Bucket::open("s3://no-such-bucket/x", s3.settings(), Patience::default()).await;
    let error = refused.expect_err("no bucket").to_string();
    assert!(error.contains("s3://no-such-bucket/x/probe/"), "{error}");
    assert!(error.contains("make the bucket"), "{error}");
}

#[tokio::test]
async fn a_store_that_is_away_is_not_waited_for_long() {
    let settings = [
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:1"),
        ("AWS_ACCESS_KEY_ID", "a"),
        ("AWS_SECRET_ACCESS_KEY", "b"),
    ];
    let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let patience = Patience {
        retry: Duration::from_millis(200),
        retries: 2,
        ..Patience::default()
    };
    let refused = Bucket::open("s3://b/x", settings, patience).await;
    let error = refused.expect_err("nobody is there");
    assert!(
        matches!(
            error,
            RegistryError::Bucket {
                transient: true,
                ..
            }
        ),
        "{error}"
    );
    let text = error.to_string();
    assert!(text.contains("AWS_ENDPOINT_URL"), "{text}");
}

#[tokio::test]
async fn objects_of_others_are_left_alone() {
    let bucket = small(Arc::new(InMemory::new())).await;
    let (digest, stored) = object(b"mine");
    bucket.put(vec![(digest, stored)]).await.expect("puts");
    let theirs = bucket.key("chunks/notes.txt");
    let put = bucket.store.put(&theirs, b"theirs".to_vec().into()).await;
    put.expect("puts");
    let listed = bucket.list(None).await.expect("lists");
    assert_eq!(listed.objects, [(digest, 16)]);
}
