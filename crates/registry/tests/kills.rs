//! Clients that are ended at every point of a push and a pull: the next one goes on from there.
//!
//! The clients are this test program, told to run one test alone.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::path::Path;
use std::process::Stdio;

use common::{Registry, assert_same, request, safetensors, write};
use espalier_registry::Client;
use tempfile::TempDir;

/// More points than a push or pull comes by.
const MOST: u32 = 100;

/// 22 chunks in several messages.
fn folder() -> TempDir {
    let dir = tempfile::tempdir().expect("tempdir");
    let large = safetensors(11, &[5 << 20; 10]);
    write(dir.path(), "model.safetensors", &large);
    write(dir.path(), "report.json", b"{}");
    dir
}

/// What a client came to.
enum Ended {
    /// At this point.
    Aborted(String),
    /// Its last words: chunks that it moved.
    Done(u64),
}

async fn client(what: &str, endpoint: &str, dir: &Path, reference: &str, points: u32) -> Ended {
    let program = std::env::current_exe().expect("runs");
    let child = tokio::process::Command::new(program)
        .args(["--exact", "one_client", "--ignored", "--nocapture"])
        .env("ESPALIER_TEST_CLIENT", what)
        .env("ESPALIER_TEST_ENDPOINT", endpoint)
        .env("ESPALIER_TEST_DIR", dir)
        .env("ESPALIER_TEST_REFERENCE", reference)
        .env("ESPALIER_ABORT_AT", points.to_string())
        .stdin(Stdio::null())
        .output()
        .await
        .expect("starts");
    let (out, err) = (
        String::from_utf8_lossy(&child.stdout),
        String::from_utf8_lossy(&child.stderr),
    );
    if let Some(point) = err.lines().find_map(|l| l.strip_prefix("aborted at ")) {
        return Ended::Aborted(point.to_owned());
    }
    assert!(child.status.success(), "{err}{out}");
    let moved = out.lines().find_map(|line| line.strip_prefix("moved "));
    Ended::Done(moved.expect("says").parse().expect("a number"))
}

#[tokio::test]
#[ignore = "run by the tests below, in processes of its own"]
async fn one_client() {
    let var = |name: &str| std::env::var(format!("ESPALIER_TEST_{name}"));
    let Ok(what) = var("CLIENT") else { return };
    let client = Client::connect(&var("ENDPOINT").unwrap())
        .await
        .expect("connects");
    let dir = var("DIR").unwrap();
    let moved = if what == "push" {
        let demo = request("demo", None);
        let push = client.push_folder(Path::new(&dir), &demo, |_, _| {});
        push.await.expect("pushes").moved
    } else {
        let reference = var("REFERENCE").unwrap();
        let pull = client.pull(&reference, Path::new(&dir), |_, _| {});
        pull.await.expect("pulls").moved
    };
    println!("\nmoved {}", moved.moved_chunks);
}

#[tokio::test]
async fn a_push_that_is_killed_goes_on() {
    let registry = Registry::start().await;
    let dir = folder();
    let push = async |points| client("push", &registry.endpoint, dir.path(), "", points).await;
    let mut sent = 0;
    // Each client is ended once one more message is durable, until there is nothing to send.
    loop {
        match push(0).await {
            Ended::Aborted(point) if point == "batch written" => sent += 1,
            Ended::Aborted(point) if point == "chunks sent" => break,
            Ended::Aborted(point) => panic!("aborted at {point}"),
            Ended::Done(_) => panic!("came by no point"),
        }
        assert!(sent < MOST);
    }
    assert!(sent > 5, "{sent}");
    assert!(matches!(push(1).await, Ended::Aborted(point) if point == "published"));
    assert!(matches!(push(MOST).await, Ended::Done(0)));
    let client = registry.client().await;
    let page = client.list(Default::default()).await.expect("lists");
    // The client that was ended after its publish had published.
    assert_eq!(page.checkpoints.len(), 1);
    let target = dir.path().join("pulled");
    let pulled = client
        .pull(&page.checkpoints[0].digest, &target, |_, _| {})
        .await;
    assert_same(dir.path(), &target, &pulled.expect("pulls").manifest);
}

#[tokio::test]
async fn a_pull_that_is_killed_goes_on() {
    let registry = Registry::start().await;
    let dir = folder();
    let pusher = registry.client().await;
    let demo = request("demo", None);
    let pushed = pusher.push_folder(dir.path(), &demo, |_, _| {});
    let pushed = pushed.await.expect("pushes");
    let out = tempfile::tempdir().expect("tempdir");
    let target = out.path().join("c");
    let mut aborted = Vec::new();
    let mut placed = 0;
    let last = loop {
        // Three chunks further each time.
        match client("pull", &registry.endpoint, &target, &pushed.digest, 3).await {
            Ended::Aborted(point) => aborted.push(point),
            Ended::Done(moved) => break moved,
        }
        assert!(aborted.len() < MOST as usize, "{aborted:?}");
        assert!(!target.exists() || aborted.last().unwrap() == "folder in place");
        placed += 3;
    };
    assert!(aborted.len() > 3, "{aborted:?}");
    assert!(
        last + placed <= pushed.moved.chunks + 8,
        "{last} after {aborted:?}"
    );
    let found = pusher.get(&pushed.digest).await.expect("there");
    assert_same(dir.path(), &target, &found.manifest);
    assert!(!out.path().join("c.partial").exists());
}
