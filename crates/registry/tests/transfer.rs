//! Pushing and pulling over a real connection, whole and interrupted.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::sync::{Arc, Mutex};

use common::{
    REQUEST, Registry, TENSORS, assert_same, checkpoint, id, is_missing, raw, request, safetensors,
    upload, weights, write,
};
use espalier_proto::v1::{ReadChunksRequest, WriteChunksRequest};
use espalier_registry::{ClientError, Digest, Expected};
use tonic::Code;

const MIB: usize = 1 << 20;

#[tokio::test]
async fn what_is_pushed_is_pulled() {
    let registry = Registry::start().await;
    let client = registry.client().await;
    let dir = checkpoint(1);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&seen);
    let digest = client
        .push(
            dir.path(),
            &request("demo", Some(("best", Expected::Any))),
            move |done, total| sink.lock().unwrap().push((done, total)),
        )
        .await
        .expect("pushes");
    let total = (weights(1).len() + 27 + 7) as u64;
    {
        let seen = seen.lock().unwrap();
        assert_eq!(seen.iter().max(), Some(&(total, total)));
        assert!(seen.iter().all(|(done, of)| done <= of && *of == total));
    }
    let out = tempfile::tempdir().expect("tempdir");
    for (i, reference) in [
        "demo:best".to_owned(),
        digest.clone(),
        format!("demo@{digest}"),
    ]
    .iter()
    .enumerate()
    {
        let target = out.path().join(i.to_string());
        let pulled = client
            .pull(reference, &target, |_, _| {})
            .await
            .expect("pulls");
        assert_eq!(pulled.digest, digest);
        assert_eq!(pulled.checkpoint.aliases, ["best"]);
        assert_eq!(pulled.checkpoint.size, total);
        assert_eq!(pulled.manifest.files.len(), 4);
        assert_eq!(
            pulled.manifest.report.as_ref().unwrap()["accuracy"]["shared"],
            0.1
        );
        assert_same(dir.path(), &target, &pulled.manifest);
        assert!(!out.path().join(format!("{i}.partial")).exists());
    }
}

#[tokio::test]
async fn only_what_changed_moves() {
    let registry = Registry::start().await;
    let client = registry.client().await;
    let dir = checkpoint(2);
    let push = || client.push_folder(dir.path(), &REQUEST, |_, _| {});
    let first = push().await.expect("pushes");
    assert!(first.moved.moved_bytes > first.moved.total_bytes / 2);

    // Again: less than a hundredth of it, names of chunks and the manifest.
    let again = push().await.expect("pushes");
    assert_eq!(again.digest, first.digest);
    assert_eq!(again.moved.moved_chunks, 0);
    assert!(again.moved.moved_bytes < again.moved.total_bytes / 100);

    // A copy of a file is the same chunks.
    write(dir.path(), "copy.safetensors", &weights(2));
    let copied = push().await.expect("pushes");
    assert_ne!(copied.digest, first.digest);
    assert_eq!(copied.moved.moved_chunks, 0);
    std::fs::remove_file(dir.path().join("copy.safetensors")).unwrap();

    // One tensor of another training step: its chunk moves, nothing else.
    let mut next = weights(2);
    let at = next.len() - 7 - MIB - 5;
    next[at] ^= 1;
    write(dir.path(), "model.safetensors", &next);
    let next = push().await.expect("pushes");
    assert_eq!(next.moved.moved_chunks, 1);
    assert!(next.moved.moved_bytes < 150 << 10, "{:?}", next.moved);

    let out = tempfile::tempdir().expect("tempdir");
    let target = out.path().join("c");
    let pulled = client
        .pull(&next.digest, &target, |_, _| {})
        .await
        .expect("pulls");
    assert_same(dir.path(), &target, &pulled.manifest);
    let page = client.list(Default::default()).await.expect("lists");
    assert_eq!(page.checkpoints.len(), 3);
}

#[tokio::test]
async fn many_small_tensors_cost_no_round_trip_each() {
    let registry = Registry::start().await;
    let client = registry.client().await;
    let dir = tempfile::tempdir().expect("tempdir");
    // Large enough for a chunk each, every other.
    let sizes: Vec<usize> = (0..120)
        .map(|i| if i % 2 == 0 { 64 << 10 } else { 16 })
        .collect();
    write(dir.path(), "model.safetensors", &safetensors(9, &sizes));
    let pushed = client
        .push_folder(dir.path(), &REQUEST, |_, _| {})
        .await
        .expect("pushes");
    assert!(pushed.moved.chunks > 100, "{:?}", pushed.moved);
    let target = dir.path().join("pulled");
    let pulled = client
        .pull(&pushed.digest, &target, |_, _| {})
        .await
        .expect("pulls");
    assert_same(dir.path(), &target, &pulled.manifest);
}

#[tokio::test]
async fn chunks_that_are_not_what_they_say_are_not_stored() {
    let registry = Registry::start().await;
    let mut rpc = registry.rpc().await;
    let mut wrong = raw(b"abc");
    wrong.data = b"abd".to_vec().into();
    // None of a batch with a wrong one is stored.
    let request = WriteChunksRequest {
        chunks: vec![raw(b"good"), wrong],
        lease: String::new(),
    };
    let status = rpc.write_chunks(request).await.expect_err("wrong");
    assert_eq!(status.code(), Code::DataLoss, "{status}");
    assert!(
        status.message().contains(&Digest::of(b"abc").to_string()),
        "{status}"
    );
    assert!(is_missing(&registry, b"good").await);

    // A bomb: a thousandth of what it unpacks to, and more than it says.
    let mut bomb = raw(b"abc");
    bomb.encoding = espalier_proto::v1::Encoding::Zstd.into();
    bomb.data = vec![0x28, 0xb5, 0x2f].into();
    let mut huge = raw(b"abc");
    huge.id.as_mut().unwrap().size = 1 << 40;
    let mut longer = raw(b"abc");
    longer.data = b"abcd".to_vec().into();
    for (chunk, code, named) in [
        (bomb, Code::DataLoss, "cannot be decompressed to 3 bytes"),
        (huge, Code::InvalidArgument, "chunks[0].id.size"),
        (longer, Code::InvalidArgument, "chunks[0].data"),
    ] {
        let request = WriteChunksRequest {
            chunks: vec![chunk],
            lease: String::new(),
        };
        let status = rpc.write_chunks(request).await.expect_err(named);
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(named), "{status}");
    }
    let pair = [vec![1; 9 * MIB / 4], vec![2; 9 * MIB / 4]];
    let request = WriteChunksRequest {
        chunks: pair.iter().map(|data| raw(data)).collect(),
        lease: String::new(),
    };
    let status = rpc.write_chunks(request).await.expect_err("too much");
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    assert!(status.message().contains("at most 4194304"), "{status}");
}

#[tokio::test]
async fn a_chunk_is_not_found_under_another_size() {
    let registry = Registry::start().await;
    upload(&registry, b"abc").await;
    let mut rpc = registry.rpc().await;
    let mut id = id(b"abc");
    id.size = 4;
    let request = ReadChunksRequest {
        chunks: vec![id],
        ..Default::default()
    };
    let status = rpc.read_chunks(request).await.expect_err("another size");
    assert_eq!(status.code(), Code::DataLoss, "{status}");
}

#[tokio::test]
async fn a_damaged_chunk_fails_the_pull_by_name_and_a_push_restores_it() {
    for damage in ["flipped", "truncated", "empty", "gone"] {
        let registry = Registry::start().await;
        let client = registry.client().await;
        let dir = checkpoint(5);
        let digest = client
            .push(dir.path(), &REQUEST, |_, _| {})
            .await
            .expect("pushes");
        let weights = weights(5);
        // The second piece of the large tensor.
        let begin = weights.len() - TENSORS.iter().sum::<usize>();
        let chunk = Digest::of(&weights[begin + 4 * MIB..begin + 5 * MIB]);
        let path = registry.chunk_path(chunk);
        let mut bad = std::fs::read(&path).unwrap();
        match damage {
            "flipped" => *bad.last_mut().unwrap() ^= 1,
            "truncated" => bad.truncate(MIB / 2),
            _ => bad.clear(),
        }
        std::fs::write(&path, bad).unwrap();
        if damage == "gone" {
            std::fs::remove_file(&path).unwrap();
        }
        let target = dir.path().join("pulled");
        for _ in 0..2 {
            let error = client
                .pull(&digest, &target, |_, _| {})
                .await
                .expect_err("damaged");
            // The second time it was put aside.
            assert!(
                matches!(error.code(), Some(Code::DataLoss | Code::NotFound)),
                "{damage}: {error}"
            );
            let text = error.to_string();
            assert!(text.contains("`model.safetensors`"), "{text}");
            assert!(text.contains(&chunk.to_string()), "{text}");
            assert!(!target.exists());
        }
        // A push of the same files mends it.
        std::fs::remove_dir_all(dir.path().join("pulled.partial")).unwrap();
        let mended = client
            .push_folder(dir.path(), &REQUEST, |_, _| {})
            .await
            .expect("pushes");
        assert_eq!(
            (&mended.digest, mended.moved.moved_chunks),
            (&digest, 1),
            "{damage}"
        );
        client
            .pull(&digest, &target, |_, _| {})
            .await
            .expect("pulls");
    }
}

#[tokio::test]
async fn a_pull_goes_on_with_what_is_there_and_throws_wrong_bytes_away() {
    let registry = Registry::start().await;
    let client = registry.client().await;
    let dir = checkpoint(6);
    let digest = client
        .push(dir.path(), &REQUEST, |_, _| {})
        .await
        .expect("pushes");
    let weights = weights(6);
    let mut wrong = weights.clone();
    wrong[7] ^= 1;
    for (i, (part, moved)) in [
        (&weights[..5 * MIB], 5),
        (&wrong, 1),
        (&weights, 0),
        (&[weights.as_slice(), b"x"].concat(), 0),
    ]
    .into_iter()
    .enumerate()
    {
        let out = tempfile::tempdir().expect("tempdir");
        write(out.path(), "c.partial/model.safetensors", part);
        write(
            out.path(),
            "c.partial/left/over.bin",
            b"from another checkpoint",
        );
        let target = out.path().join("c");
        let pulled = client
            .pull(&digest, &target, |_, _| {})
            .await
            .expect("pulls");
        assert_same(dir.path(), &target, &pulled.manifest);
        // And the two small files.
        assert_eq!(pulled.moved.moved_chunks, moved + 2, "{i}");
        assert!(!target.join("left/over.bin").exists(), "{i}");
        assert!(!out.path().join("c.partial").exists(), "{i}");
    }
}

#[tokio::test]
async fn nothing_is_written_through_a_link() {
    let registry = Registry::start().await;
    let client = registry.client().await;
    let dir = checkpoint(8);
    let digest = client
        .push(dir.path(), &REQUEST, |_, _| {})
        .await
        .expect("pushes");
    let out = tempfile::tempdir().expect("tempdir");
    write(out.path(), "mine", b"mine");
    std::fs::create_dir_all(out.path().join("c.partial")).unwrap();
    let link = out.path().join("c.partial/report.json");
    std::os::unix::fs::symlink(out.path().join("mine"), &link).unwrap();
    let error = client.pull(&digest, &out.path().join("c"), |_, _| {}).await;
    let error = error.expect_err("a link").to_string();
    assert!(error.contains("neither a file nor a folder"), "{error}");
    assert_eq!(std::fs::read(out.path().join("mine")).unwrap(), b"mine");
}

#[tokio::test]
async fn a_folder_that_is_something_else_is_left_alone() {
    let registry = Registry::start().await;
    let client = registry.client().await;
    let dir = checkpoint(7);
    let digest = client
        .push(dir.path(), &request("demo", None), |_, _| {})
        .await
        .expect("pushes");
    let out = tempfile::tempdir().expect("tempdir");
    let target = out.path().join("c");
    std::fs::create_dir(&target).unwrap();
    client
        .pull(&digest, &target, |_, _| {})
        .await
        .expect("an empty folder will do");
    client
        .pull(&digest, &target, |_, _| {})
        .await
        .expect("it is this checkpoint");
    for (path, problem) in [
        ("mine.txt", "`mine.txt` does not belong to it"),
        ("report.json", "`report.json` is another"),
    ] {
        let before = std::fs::read(target.join(path)).ok();
        write(&target, path, b"mine");
        let error = client
            .pull(&digest, &target, |_, _| {})
            .await
            .expect_err("occupied");
        assert!(matches!(error, ClientError::Folder { .. }), "{error}");
        assert!(error.to_string().contains(problem), "{error}");
        assert_eq!(std::fs::read(target.join(path)).unwrap(), b"mine");
        match before {
            Some(before) => std::fs::write(target.join(path), before).unwrap(),
            None => std::fs::remove_file(target.join(path)).unwrap(),
        }
    }
    std::fs::remove_file(target.join("empty")).unwrap();
    let error = client
        .pull(&digest, &target, |_, _| {})
        .await
        .expect_err("incomplete");
    assert!(error.to_string().contains("`empty` is missing"), "{error}");
}

#[tokio::test]
async fn endpoints_that_cannot_work_are_named() {
    for (endpoint, expected) in [
        ("", "is not an endpoint"),
        ("127.0.0.1:1", "is not an endpoint"),
        ("ftp://127.0.0.1:1", "is not an endpoint"),
        (
            "http://127.0.0.1:1",
            "cannot reach the registry at http://127.0.0.1:1",
        ),
    ] {
        let error = espalier_registry::Client::connect(endpoint)
            .await
            .expect_err(endpoint);
        assert!(error.to_string().contains(expected), "{error}");
    }
}
