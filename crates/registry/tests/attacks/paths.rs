//! Paths that leave the folder, or look like others.

use espalier_proto::v1::PublishCheckpointRequest;
use espalier_registry::ClientError;
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::common::{REQUEST, Registry, upload, write};
use crate::hostile::Hostile;
use crate::manifests::{DATA, PATHS, file, of_files};

fn publish(manifest: String) -> PublishCheckpointRequest {
    PublishCheckpointRequest {
        request_id: "1".to_owned(),
        name: "demo".to_owned(),
        manifest: manifest.into(),
        ..PublishCheckpointRequest::default()
    }
}

/// Pairs that are sorted and distinct, and yet one file on some disk, or a file and its own folder.
const PAIRS: [[&str; 2]; 4] = [
    ["A", "a"],
    ["a", "a/b"],
    ["X/a", "x/a"],
    ["\u{c9}", "\u{e9}"],
];

#[tokio::test]
async fn paths_that_leave_the_folder_are_refused_at_publish() {
    let registry = Registry::start().await;
    upload(&registry, DATA).await;
    let mut rpc = registry.rpc().await;
    let single = PATHS.iter().map(|path| file(path));
    let pairs = PAIRS.iter().map(|pair| pair.map(file).join(","));
    for files in single.chain(pairs) {
        let status = rpc.publish_checkpoint(publish(of_files(&files))).await;
        let status = status.expect_err(&files);
        assert_eq!(status.code(), Code::InvalidArgument, "{files}: {status}");
        let refused = status.get_details_bad_request().expect("details");
        let field = &refused.field_violations[0].field;
        assert!(field.starts_with("manifest.files"), "{files}: {status}");
    }
    let good = publish(of_files(&file("weights")));
    rpc.publish_checkpoint(good)
        .await
        .expect("the rest of it is right");
}

#[tokio::test]
async fn paths_that_leave_the_folder_are_refused_at_pull() {
    let outside = tempfile::tempdir().expect("tempdir");
    for path in PATHS {
        let hostile = Hostile::with_manifest(of_files(&file(path)));
        let (client, _guard) = hostile.serve().await;
        let target = outside.path().join("a/b/target");
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        let error = client.pull("demo", &target, |_, _| {}).await;
        let error = error.expect_err(path);
        assert!(
            matches!(error, ClientError::Manifest(_)),
            "{path:?}: {error}"
        );
        assert!(
            error.to_string().contains("files[0].path"),
            "{path:?}: {error}"
        );
        let left = std::fs::read_dir(outside.path().join("a/b")).unwrap();
        assert_eq!(left.count(), 0, "{path:?}");
    }
}

#[tokio::test]
async fn files_whose_names_could_leave_are_refused_at_push() {
    let registry = Registry::start().await;
    let client = registry.client().await;
    // Those of the paths above that a file can have.
    for name in [
        "a\\b",
        "c:a",
        "a\nb",
        "a\u{1b}[2Jb",
        "gpj.\u{202e}exe",
        "nai\u{308}ve",
    ] {
        let dir = tempfile::tempdir().expect("tempdir");
        write(dir.path(), "good", b"good");
        write(dir.path(), &format!("below/{name}"), DATA);
        let error = client.push(dir.path(), &REQUEST, |_, _| {}).await;
        let error = error.expect_err(name);
        assert!(
            matches!(error, ClientError::Folder { .. }),
            "{name:?}: {error}"
        );
    }
    let dir = tempfile::tempdir().expect("tempdir");
    write(dir.path(), "Model.json", DATA);
    write(dir.path(), "model.json", DATA);
    let error = client.push(dir.path(), &REQUEST, |_, _| {}).await;
    let error = error.expect_err("one file on some disks").to_string();
    assert!(error.contains("differ only in their case"), "{error}");
    let page = client.list(Default::default()).await.expect("lists");
    assert!(page.checkpoints.is_empty());
}
