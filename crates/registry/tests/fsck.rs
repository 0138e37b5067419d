//! What is damaged is found, named and brought back, wherever the chunks lie and wherever they come from.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{Place, Registry, TENSORS, assert_same, checkpoint, request, weights};
use espalier_registry::{Client, Digest, Fault, Mirror};
use espalier_store::Op;
use tempfile::TempDir;

/// Digests of the pieces of the large tensor of [`checkpoint`].
fn pieces(seed: u64) -> [Digest; 2] {
    let weights = weights(seed);
    let begin = weights.len() - TENSORS.iter().sum::<usize>();
    let at = |mib: usize| begin + (mib << 20);
    [&weights[at(0)..at(4)], &weights[at(4)..at(5)]].map(Digest::of)
}

async fn push(client: &Client, dir: &TempDir) -> String {
    let demo = request("demo", None);
    let push = client.push(dir.path(), &demo, |_, _| {});
    push.await.expect("pushes")
}

#[tokio::test]
async fn everything_that_is_damaged_is_named_and_mended() {
    let dir = checkpoint(21);
    let mirror = Registry::start().await;
    push(&mirror.client().await, &dir).await;
    let [large, small] = pieces(21);
    let report = Digest::of(br#"{"accuracy":{"shared":0.1}}"#);
    for place in Place::each() {
        let registry = Registry::at(place).await;
        let client = registry.client().await;
        let digest = push(&client, &dir).await;
        assert_eq!(client.fsck(None, |_, _| {}).await.expect("looks"), []);
        for from_folder in [false, true] {
            // Flipped, truncated and gone.
            registry.damage(large, |mut bytes| {
                *bytes.last_mut().unwrap() ^= 1;
                Some(bytes)
            });
            registry.damage(small, |bytes| Some(bytes[..bytes.len() / 2].to_vec()));
            registry.damage(report, |_| None);
            let source = if from_folder {
                Mirror::Folder(dir.path().to_owned())
            } else {
                Mirror::Registry(Box::new(mirror.client().await))
            };
            let found = client.fsck(None, |_, _| {}).await.expect("looks");
            let mended = client.fsck(Some(&source), |_, _| {}).await.expect("mends");
            for (faults, repaired) in [(found, false), (mended, true)] {
                let mut named: Vec<Digest> = faults.iter().map(|fault| fault.digest).collect();
                let mut expected = vec![large, small, report];
                named.sort_unstable();
                expected.sort_unstable();
                assert_eq!(named, expected);
                for fault in faults {
                    assert_eq!(fault.repaired, repaired, "{fault:?}");
                    let file = match fault.digest == report {
                        true => "report.json",
                        false => "model.safetensors",
                    };
                    assert_eq!(fault.needed_by, [format!("demo@{digest}: {file}")]);
                }
            }
            assert_eq!(client.fsck(None, |_, _| {}).await.expect("looks"), []);
        }
        let target = tempfile::tempdir().unwrap();
        let target = target.path().join("c");
        let pulled = client.pull(&digest, &target, |_, _| {}).await;
        assert_same(dir.path(), &target, &pulled.expect("pulls").manifest);
    }
}

#[tokio::test]
async fn what_no_mirror_has_is_named_and_not_mended() {
    let (registry, mirror) = (Registry::start().await, Registry::start().await);
    let dir = checkpoint(22);
    let (client, other) = (registry.client().await, mirror.client().await);
    push(&client, &dir).await;
    push(&other, &dir).await;
    let [large, small] = pieces(22);
    // The mirror's are no better.
    for each in [&registry, &mirror] {
        each.damage(large, |_| None);
        each.damage(small, |mut bytes| {
            *bytes.last_mut().unwrap() ^= 1;
            Some(bytes)
        });
    }
    let faults = client
        .fsck(Some(&Mirror::Registry(Box::new(other))), |_, _| {})
        .await;
    let faults = faults.expect("looks");
    assert_eq!(faults.len(), 2);
    assert!(faults.iter().all(|fault| !fault.repaired), "{faults:?}");
}

#[tokio::test]
async fn a_manifest_that_is_damaged_or_lost_comes_back_from_a_mirror_or_by_a_push() {
    let dir = checkpoint(23);
    let mirror = Registry::start().await;
    push(&mirror.client().await, &dir).await;
    let other = Mirror::Registry(Box::new(mirror.client().await));
    let mut registry = Registry::start().await;
    let digest = push(&registry.client().await, &dir).await;
    let published = registry
        .client()
        .await
        .get(&digest)
        .await
        .expect("is there");
    let key = format!("manifests/{digest}");
    let [large, _] = pieces(23);
    for change in [Op::put(&key, "{}"), Op::delete(&key)] {
        for by_push in [false, true] {
            registry = registry.tampered(change.clone()).await;
            // Of a manifest that does not say so, nobody else knows that it needs this one.
            registry.damage(large, |_| None);
            let client = registry.client().await;
            let named = |faults: Vec<Fault>| {
                let named = faults
                    .into_iter()
                    .map(|f| (f.digest.to_string(), f.repaired));
                named.collect::<Vec<_>>()
            };
            let folder = Mirror::Folder(dir.path().to_owned());
            for source in [None, Some(&folder)] {
                let faults = client.fsck(source, |_, _| {}).await.expect("looks");
                assert_eq!(named(faults), [(digest.clone(), false)]);
            }
            if by_push {
                assert_eq!(push(&client, &dir).await, digest);
            } else {
                let faults = client.fsck(Some(&other), |_, _| {}).await.expect("mends");
                assert_eq!(
                    named(faults),
                    [(large.to_string(), true), (digest.clone(), true)]
                );
            }
            assert_eq!(client.fsck(None, |_, _| {}).await.expect("looks"), []);
            let again = client.get(&digest).await.expect("is there");
            assert_eq!(again.manifest, published.manifest);
            assert_eq!(again.checkpoint, published.checkpoint);
            let all = client.list(Default::default()).await.expect("lists");
            assert_eq!(all.checkpoints.len(), 1);
        }
    }
}
