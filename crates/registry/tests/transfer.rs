//! Pushing and pulling over a real connection, whole and interrupted.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::sync::{Arc, Mutex};

use common::{
    Registry, assert_same, bytes, checkpoint, committed, header, id, piece, request, write,
};
use espalier_registry::{ClientError, Digest, Expected};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
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
    let total = (5 * MIB + 7 + 27 + 7) as u64;
    {
        let seen = seen.lock().unwrap();
        assert_eq!(seen.last(), Some(&(total, total)));
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
async fn the_same_files_are_the_same_checkpoint_and_go_over_once() {
    let registry = Registry::start().await;
    let client = registry.client().await;
    let dir = checkpoint(2);
    let first = client
        .push(dir.path(), &request("demo", None), |_, _| {})
        .await
        .expect("pushes");
    write(dir.path(), "copy", &bytes(2, 5 * MIB + 7));
    let second = client
        .push(dir.path(), &request("demo", None), |_, _| {})
        .await
        .expect("pushes");
    assert_ne!(first, second);
    std::fs::remove_file(dir.path().join("copy")).unwrap();
    let third = client
        .push(dir.path(), &request("demo", None), |_, _| {})
        .await
        .expect("pushes");
    assert_eq!(first, third);
    let page = client.list(Default::default()).await.expect("lists");
    let digests: Vec<&str> = page.checkpoints.iter().map(|c| c.digest.as_str()).collect();
    assert_eq!(digests, [second, first]);
}

#[tokio::test]
async fn an_upload_whose_client_vanished_goes_on_where_it_stopped() {
    let registry = Registry::start().await;
    let data = bytes(1, 5 * MIB + 7);
    let mut rpc = registry.rpc().await;
    let (messages, outgoing) = mpsc::channel(1);
    let upload = {
        let mut rpc = rpc.clone();
        tokio::spawn(async move { rpc.write_blob(ReceiverStream::new(outgoing)).await })
    };
    messages.send(header(id(&data), 0)).await.unwrap();
    for i in 0..2 {
        let part = piece(&data[i * MIB..(i + 1) * MIB], false);
        messages.send(part).await.unwrap();
    }
    while committed(&mut rpc, id(&data)).await < 2 * MIB as u64 {
        tokio::task::yield_now().await;
    }
    upload.abort();
    let _ = upload.await;
    drop(messages);

    let registry = registry.restart().await;
    let mut rpc = registry.rpc().await;
    assert_eq!(committed(&mut rpc, id(&data)).await, 2 * MIB as u64);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&seen);
    let dir = tempfile::tempdir().expect("tempdir");
    write(dir.path(), "model.safetensors", &data);
    let client = registry.client().await;
    client
        .push(dir.path(), &request("demo", None), move |done, _| {
            sink.lock().unwrap().push(done)
        })
        .await
        .expect("pushes");
    // After the initial 0 it went on from what was there.
    assert_eq!(seen.lock().unwrap()[..2], [0, 2 * MIB as u64]);
    let target = dir.path().join("pulled");
    let pulled = client.pull("demo", &target, |_, _| {}).await;
    assert_eq!(pulled.expect_err("no alias").code(), Some(Code::NotFound));
    let digest = client.list(Default::default()).await.unwrap().checkpoints[0]
        .digest
        .clone();
    let pulled = client
        .pull(&digest, &target, |_, _| {})
        .await
        .expect("pulls");
    assert_same(dir.path(), &target, &pulled.manifest);
}

#[tokio::test]
async fn the_end_of_a_stream_is_not_the_end_of_an_upload() {
    let registry = Registry::start().await;
    let mut rpc = registry.rpc().await;
    let data = bytes(3, 10);
    // Everything came, but nobody said so: the blob is not there.
    let messages = [header(id(&data), 0), piece(&data, false)];
    let answer = rpc
        .write_blob(tokio_stream::iter(messages))
        .await
        .expect("kept");
    assert_eq!(answer.into_inner().committed_size, 10);
    let request = espalier_proto::v1::FindMissingBlobsRequest {
        blobs: vec![id(&data)],
    };
    let missing = rpc
        .find_missing_blobs(request.clone())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(missing.missing, [id(&data)]);
    let messages = [header(id(&data), 10), piece(&[], true)];
    rpc.write_blob(tokio_stream::iter(messages))
        .await
        .expect("finished");
    let missing = rpc.find_missing_blobs(request).await.unwrap().into_inner();
    assert!(missing.missing.is_empty());
}

#[tokio::test]
async fn a_push_of_what_another_uploads_waits_for_it() {
    let registry = Registry::start().await;
    let data = bytes(4, 3 * MIB);
    let mut rpc = registry.rpc().await;
    let (messages, outgoing) = mpsc::channel(1);
    let upload = {
        let mut rpc = rpc.clone();
        tokio::spawn(async move { rpc.write_blob(ReceiverStream::new(outgoing)).await })
    };
    messages.send(header(id(&data), 0)).await.unwrap();
    messages.send(piece(&data[..MIB], false)).await.unwrap();
    while committed(&mut rpc, id(&data)).await < MIB as u64 {
        tokio::task::yield_now().await;
    }
    let dir = tempfile::tempdir().expect("tempdir");
    write(dir.path(), "weights", &data);
    let client = registry.client().await;
    let path = dir.path().to_owned();
    let push =
        tokio::spawn(async move { client.push(&path, &request("demo", None), |_, _| {}).await });
    messages
        .send(piece(&data[MIB..2 * MIB], false))
        .await
        .unwrap();
    messages.send(piece(&data[2 * MIB..], true)).await.unwrap();
    upload.await.unwrap().expect("uploads");
    push.await.unwrap().expect("pushes");
}

#[tokio::test]
async fn a_damaged_blob_fails_the_pull_by_name_and_leaves_nothing() {
    for damage in ["flipped", "truncated", "empty"] {
        let registry = Registry::start().await;
        let client = registry.client().await;
        let dir = checkpoint(5);
        let digest = client
            .push(dir.path(), &request("demo", None), |_, _| {})
            .await
            .expect("pushes");
        let weights = bytes(5, 5 * MIB + 7);
        let blob = registry.blob_path(Digest::of(&weights));
        let mut bad = weights.clone();
        match damage {
            "flipped" => bad[3 * MIB] ^= 1,
            "truncated" => bad.truncate(2 * MIB),
            _ => bad.clear(),
        }
        std::fs::write(&blob, bad).unwrap();
        let target = dir.path().join("pulled");
        for _ in 0..2 {
            let error = client
                .pull(&digest, &target, |_, _| {})
                .await
                .expect_err("damaged");
            assert_eq!(error.code(), Some(Code::DataLoss), "{damage}: {error}");
            assert_eq!(error.reason().as_deref(), Some("BLOB_DAMAGED"));
            let text = error.to_string();
            assert!(text.contains("`model.safetensors`"), "{text}");
            assert!(text.contains(&Digest::of(&weights).to_string()), "{text}");
            assert!(!target.exists());
            let partial = dir.path().join("pulled.partial/model.safetensors");
            assert!(!partial.exists());
        }
        // A push of the same files mends it.
        std::fs::remove_dir_all(dir.path().join("pulled.partial")).unwrap();
        client
            .push(dir.path(), &request("demo", None), |_, _| {})
            .await
            .expect("pushes");
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
        .push(dir.path(), &request("demo", None), |_, _| {})
        .await
        .expect("pushes");
    let weights = bytes(6, 5 * MIB + 7);
    let mut wrong = weights[..2 * MIB].to_vec();
    wrong[7] ^= 1;
    for (i, part) in [
        &weights[..2 * MIB],
        &wrong,
        &weights,
        &[weights.as_slice(), b"x"].concat(),
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
        assert!(!target.join("left/over.bin").exists(), "{i}");
        assert!(!out.path().join("c.partial").exists(), "{i}");
    }
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
        ("https://127.0.0.1:1", "does not begin with http://"),
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
