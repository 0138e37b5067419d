//! Links in folders that are pushed and pulled to.

use std::os::unix::fs::symlink;
use std::path::Path;

use espalier_registry::ClientError;

use crate::common::{REQUEST, Registry, assert_same, checkpoint, write};

#[tokio::test]
async fn links_and_devices_are_not_pushed() {
    let registry = Registry::start().await;
    let client = registry.client().await;
    let secret = tempfile::tempdir().expect("tempdir");
    write(secret.path(), "key", b"secret");
    type Plant = fn(&Path, &Path);
    let plants: [(&str, Plant); 5] = [
        ("a link to a file", |dir, secret| {
            symlink(secret.join("key"), dir.join("x")).unwrap();
        }),
        ("a link to a folder", |dir, secret| {
            symlink(secret, dir.join("x")).unwrap();
        }),
        ("a link to nothing", |dir, _| {
            symlink("nowhere", dir.join("x")).unwrap();
        }),
        ("the report card as a link", |dir, secret| {
            std::fs::remove_file(dir.join("report.json")).unwrap();
            symlink(secret.join("key"), dir.join("report.json")).unwrap();
        }),
        ("a pipe, which never ends", |dir, _| {
            let made = std::process::Command::new("mkfifo")
                .arg(dir.join("x"))
                .status();
            assert!(made.unwrap().success());
        }),
    ];
    for (what, plant) in plants {
        let dir = checkpoint(1);
        plant(dir.path(), secret.path());
        let error = client.push(dir.path(), &REQUEST, |_, _| {}).await;
        let error = error.expect_err(what);
        assert!(
            matches!(error, ClientError::Folder { .. }),
            "{what}: {error}"
        );
        assert!(
            error.to_string().contains("neither a file nor a folder"),
            "{what}: {error}"
        );
    }
    let page = client.list(Default::default()).await.expect("lists");
    assert!(page.checkpoints.is_empty());
}

#[tokio::test]
async fn nothing_is_written_or_removed_through_links() {
    let registry = Registry::start().await;
    let client = registry.client().await;
    let dir = checkpoint(2);
    let digest = client
        .push(dir.path(), &REQUEST, |_, _| {})
        .await
        .expect("pushes");
    type Plant = fn(&Path, &Path);
    let plants: [(&str, Plant); 5] = [
        ("the unfinished folder is a link", |target, mine| {
            symlink(mine, target.with_file_name("target.partial")).unwrap();
        }),
        ("a folder in it is a link", |target, mine| {
            let partial = target.with_file_name("target.partial");
            std::fs::create_dir(&partial).unwrap();
            symlink(mine, partial.join("extra")).unwrap();
        }),
        ("a file in it is a link", |target, mine| {
            let partial = target.with_file_name("target.partial");
            std::fs::create_dir(&partial).unwrap();
            symlink(mine.join("notes.md"), partial.join("report.json")).unwrap();
        }),
        ("the target is a link to an empty folder", |target, mine| {
            std::fs::create_dir(mine.join("empty-folder")).unwrap();
            symlink(mine.join("empty-folder"), target).unwrap();
        }),
        ("the target is a link to something else", |target, mine| {
            symlink(mine, target).unwrap();
        }),
    ];
    for (what, plant) in plants {
        let out = tempfile::tempdir().expect("tempdir");
        let mine = tempfile::tempdir().expect("tempdir");
        write(mine.path(), "notes.md", b"mine");
        write(mine.path(), "model.safetensors", b"mine too");
        let target = out.path().join("target");
        plant(&target, mine.path());
        let error = client.pull(&digest, &target, |_, _| {}).await;
        error.expect_err(what);
        for (name, content) in [
            ("notes.md", &b"mine"[..]),
            ("model.safetensors", b"mine too"),
        ] {
            assert_eq!(
                std::fs::read(mine.path().join(name)).unwrap(),
                content,
                "{what}"
            );
        }
        if let Ok(mut inside) = std::fs::read_dir(mine.path().join("empty-folder")) {
            assert!(inside.next().is_none(), "{what}");
        }
    }
}

#[tokio::test]
async fn a_file_with_another_name_elsewhere_is_not_written_into() {
    let registry = Registry::start().await;
    let client = registry.client().await;
    let dir = checkpoint(3);
    let digest = client
        .push(dir.path(), &REQUEST, |_, _| {})
        .await
        .expect("pushes");
    let out = tempfile::tempdir().expect("tempdir");
    write(out.path(), "mine", b"mine");
    let partial = out.path().join("target.partial");
    std::fs::create_dir(&partial).unwrap();
    std::fs::hard_link(out.path().join("mine"), partial.join("report.json")).unwrap();
    let target = out.path().join("target");
    let pulled = client
        .pull(&digest, &target, |_, _| {})
        .await
        .expect("pulls");
    assert_same(dir.path(), &target, &pulled.manifest);
    assert_eq!(std::fs::read(out.path().join("mine")).unwrap(), b"mine");
}
