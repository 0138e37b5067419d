use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio_stream::StreamExt as _;

use super::*;

struct Folder {
    blobs: Blobs,
    dir: tempfile::TempDir,
}

async fn folder() -> Folder {
    let dir = tempfile::tempdir().expect("tempdir");
    let blobs = Blobs::open(dir.path()).await.expect("opens");
    Folder { blobs, dir }
}

fn id(data: &[u8]) -> BlobId {
    BlobId {
        digest: Digest::of(data),
        size: data.len() as u64,
    }
}

async fn begin(blobs: &Blobs, id: BlobId, offset: u64) -> Result<Box<Upload>, RegistryError> {
    match Upload::begin(blobs, id, offset).await? {
        Begun::Upload(upload) => Ok(upload),
        Begun::Complete => panic!("complete"),
    }
}

async fn put(blobs: &Blobs, data: &'static [u8]) -> BlobId {
    let upload = begin(blobs, id(data), 0).await.expect("begins");
    let upload = upload.write(data.into()).await.expect("writes");
    upload.finish().await.expect("finishes");
    id(data)
}

async fn read(blobs: &Blobs, digest: Digest, offset: u64) -> Result<Vec<u8>, RegistryError> {
    let permit = Arc::new(Semaphore::new(1))
        .acquire_owned()
        .await
        .expect("open");
    let mut stream = BlobStream::open(blobs, digest, offset, permit).await?;
    let mut data = Vec::new();
    while let Some(piece) = stream.next().await {
        data.extend_from_slice(&piece?);
    }
    Ok(data)
}

#[tokio::test]
async fn a_blob_is_read_back_from_any_offset() {
    let f = folder().await;
    let id = put(&f.blobs, b"hello").await;
    assert_eq!(read(&f.blobs, id.digest, 0).await.expect("reads"), b"hello");
    assert_eq!(read(&f.blobs, id.digest, 3).await.expect("reads"), b"lo");
    assert_eq!(read(&f.blobs, id.digest, 5).await.expect("reads"), b"");
    let error = read(&f.blobs, id.digest, 6).await.expect_err("too far");
    assert!(matches!(error, RegistryError::Offset { .. }), "{error}");
}

#[tokio::test]
async fn an_empty_blob_is_a_blob() {
    let f = folder().await;
    let id = put(&f.blobs, b"").await;
    assert!(f.blobs.missing(vec![id]).await.expect("looks").is_empty());
    assert_eq!(read(&f.blobs, id.digest, 0).await.expect("reads"), b"");
}

#[tokio::test]
async fn an_upload_goes_on_where_it_stopped_even_after_a_restart() {
    let f = folder().await;
    let id = id(b"hello");
    let upload = begin(&f.blobs, id, 0).await.expect("begins");
    drop(upload.write(b"hel"[..].into()).await.expect("writes"));
    let blobs = Blobs::open(f.dir.path()).await.expect("opens");
    assert_eq!(blobs.status(id).await.expect("looks").committed, 3);
    let error = begin(&blobs, id, 0).await.err().expect("not at 0");
    assert!(
        matches!(error, RegistryError::Offset { committed: 3, .. }),
        "{error}"
    );
    let upload = begin(&blobs, id, 3).await.expect("goes on");
    let upload = upload.write(b"lo"[..].into()).await.expect("writes");
    assert_eq!(upload.finish().await.expect("finishes"), 5);
    let status = blobs.status(id).await.expect("looks");
    assert_eq!((status.committed, status.complete), (5, true));
    assert!(matches!(
        Upload::begin(&blobs, id, 0).await,
        Ok(Begun::Complete)
    ));
}

#[tokio::test]
async fn a_part_that_rotted_is_found_out_and_started_over() {
    let f = folder().await;
    let id = id(b"hello");
    let upload = begin(&f.blobs, id, 0).await.expect("begins");
    upload.write(b"hel"[..].into()).await.expect("writes");
    fs::write(f.blobs.part(id.digest), b"hex").expect("writes");
    let upload = begin(&f.blobs, id, 3).await.expect("goes on");
    let upload = upload.write(b"lo"[..].into()).await.expect("writes");
    let error = upload.finish().await.expect_err("mismatch");
    assert!(matches!(error, RegistryError::Mismatch { .. }), "{error}");
    assert_eq!(f.blobs.status(id).await.expect("looks").committed, 0);
    put(&f.blobs, b"hello").await;
}

#[tokio::test]
async fn too_many_and_too_few_bytes_are_refused() {
    let f = folder().await;
    let upload = begin(&f.blobs, id(b"hello"), 0).await.expect("begins");
    let upload = upload.write(b"hell"[..].into()).await.expect("writes");
    let error = upload.finish().await.expect_err("short");
    assert_eq!(error.to_string(), "finish: 4 of 5 bytes arrived");
    let upload = begin(&f.blobs, id(b"hello"), 4).await.expect("goes on");
    let error = upload.write(b"oo"[..].into()).await.err().expect("long");
    assert_eq!(
        error.to_string(),
        "data: 6 bytes are more than header.blob.size 5"
    );
}

#[tokio::test]
async fn one_upload_of_a_blob_at_a_time() {
    let f = folder().await;
    let id = id(b"hello");
    let first = begin(&f.blobs, id, 0).await.expect("begins");
    let error = begin(&f.blobs, id, 0).await.err().expect("second");
    assert!(matches!(error, RegistryError::Uploading(_)), "{error}");
    drop(first);
    begin(&f.blobs, id, 0).await.expect("free again");
}

#[tokio::test]
async fn sizes_beyond_the_bound_or_the_disk_are_refused() {
    let f = folder().await;
    let huge = |size| BlobId { size, ..id(b"") };
    let error = begin(&f.blobs, huge(MAX_BLOB + 1), 0)
        .await
        .err()
        .expect("bound");
    assert!(
        error.to_string().starts_with("header.blob.size: "),
        "{error}"
    );
    let error = upload::check_space(f.dir.path(), u64::MAX).expect_err("disk");
    assert!(matches!(error, RegistryError::NoSpace { .. }), "{error}");
}

#[tokio::test]
async fn a_damaged_blob_is_never_given_whole_and_can_be_put_again() {
    let f = folder().await;
    for damage in [&b"hellO"[..], b"hell", b"helloo", b""] {
        let id = put(&f.blobs, b"hello").await;
        fs::write(f.blobs.blob(id.digest), damage).expect("writes");
        for _ in 0..2 {
            let error = read(&f.blobs, id.digest, 0).await.expect_err("damaged");
            assert!(matches!(error, RegistryError::Damaged { .. }), "{error}");
        }
        assert_eq!(f.blobs.missing(vec![id]).await.expect("looks"), [id]);
    }
}

#[tokio::test]
async fn abandoned_uploads_are_thrown_away() {
    let f = folder().await;
    let id = id(b"hello");
    let upload = begin(&f.blobs, id, 0).await.expect("begins");
    upload.write(b"hel"[..].into()).await.expect("writes");
    let now = SystemTime::now();
    f.blobs.sweep_abandoned(now).expect("sweeps");
    assert_eq!(f.blobs.status(id).await.expect("looks").committed, 3);
    let later = now + ABANDONED + Duration::from_secs(60);
    f.blobs.sweep_abandoned(later).expect("sweeps");
    assert_eq!(f.blobs.status(id).await.expect("looks").committed, 0);
}
