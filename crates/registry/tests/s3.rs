//! A registry whose chunks lie in a bucket.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{Place, Registry, assert_same, checkpoint, request};
use espalier_proto::v1::{CollectGarbageRequest, DeleteCheckpointRequest, GetUsageRequest};
use espalier_registry::Expected;
use espalier_tests::S3;
use tonic::Code;

#[tokio::test]
async fn what_is_pushed_into_a_bucket_is_pulled_after_a_restart() {
    let Some(s3) = S3::shared() else { return };
    let bucket = s3.bucket().leak();
    let mut registry = Registry::at(Place::Bucket(s3, bucket)).await;
    let dir = checkpoint(31);
    let best = request("demo", Some(("best", Expected::Any)));
    let client = registry.client().await;
    let push = client.push_folder(dir.path(), &best, |_, _| {});
    let pushed = push.await.expect("pushes");
    registry = registry.restart().await;
    let client = registry.client().await;
    let again = client.push_folder(dir.path(), &best, |_, _| {});
    assert_eq!(again.await.expect("pushes").moved.moved_chunks, 0);
    let out = tempfile::tempdir().unwrap();
    let target = out.path().join("c");
    let pulled = client.pull("demo:best", &target, |_, _| {}).await;
    assert_same(dir.path(), &target, &pulled.expect("pulls").manifest);
    // What is counted is what is there.
    let mut rpc = registry.rpc().await;
    let usage = rpc
        .get_usage(GetUsageRequest {})
        .await
        .unwrap()
        .into_inner();
    let keys = s3.list(bucket);
    let chunks = keys.iter().filter(|key| key.starts_with("prefix/chunks/"));
    assert_eq!(usage.chunks, chunks.count() as u64);
    assert_eq!(usage.chunks, pushed.moved.moved_chunks);
}

#[tokio::test]
async fn a_damaged_object_fails_the_pull_by_name_and_a_push_restores_it() {
    let Some(s3) = S3::shared() else { return };
    let registry = Registry::at(Place::Bucket(s3, s3.bucket().leak())).await;
    let client = registry.client().await;
    let dir = checkpoint(32);
    let demo = request("demo", None);
    let push = || client.push_folder(dir.path(), &demo, |_, _| {});
    let digest = push().await.expect("pushes").digest;
    let report = espalier_registry::Digest::of(br#"{"accuracy":{"shared":0.1}}"#);
    let out = tempfile::tempdir().unwrap();
    let target = out.path().join("c");
    registry.damage(report, |mut bytes| {
        *bytes.last_mut().unwrap() ^= 1;
        Some(bytes)
    });
    for code in [Code::DataLoss, Code::NotFound] {
        let pull = client.pull(&digest, &target, |_, _| {});
        let error = pull.await.expect_err("damaged");
        // The second time it was put aside.
        assert_eq!(error.code(), Some(code), "{error}");
        assert!(error.to_string().contains("`report.json`"), "{error}");
    }
    assert_eq!(push().await.expect("pushes").moved.moved_chunks, 1);
    let pull = client.pull(&digest, &target, |_, _| {});
    pull.await.expect("pulls");
}

#[tokio::test]
async fn garbage_goes_out_of_a_bucket_and_nothing_else() {
    let Some(s3) = S3::shared() else { return };
    let bucket = s3.bucket().leak();
    let registry = Registry::without_grace(Place::Bucket(s3, bucket)).await;
    let client = registry.client().await;
    let (kept, gone) = (checkpoint(33), checkpoint(34));
    let demo = request("demo", None);
    let mut digests = Vec::new();
    for dir in [&kept, &gone] {
        let push = client.push(dir.path(), &demo, |_, _| {}).await;
        digests.push(push.expect("pushes"));
    }
    let reference = digests.pop().unwrap();
    let mut rpc = registry.rpc().await;
    let delete = DeleteCheckpointRequest { reference };
    rpc.delete_checkpoint(delete).await.unwrap();
    for _ in 0..2 {
        let collect = CollectGarbageRequest { dry_run: false };
        rpc.collect_garbage(collect).await.unwrap();
    }
    let found = client.get(&digests[0]).await.unwrap();
    let chunks = found.manifest.files.iter().flat_map(|file| &file.chunks);
    let mut needed: Vec<String> = chunks
        .map(|id| {
            format!(
                "prefix/chunks/{}/{}",
                &id.digest.hex()[..1],
                id.digest.hex()
            )
        })
        .collect();
    needed.sort_unstable();
    needed.dedup();
    let mut left = s3.list(bucket);
    left.retain(|key| key.starts_with("prefix/chunks/"));
    assert_eq!(left, needed);
    let usage = rpc
        .get_usage(GetUsageRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(usage.chunks, needed.len() as u64);
    let out = tempfile::tempdir().unwrap();
    let target = out.path().join("c");
    let pulled = client.pull(&digests[0], &target, |_, _| {}).await;
    assert_same(kept.path(), &target, &pulled.unwrap().manifest);
}
