//! One thing offered as another.

use espalier_proto::v1::{
    CheckChunksRequest, Encoding, FindMissingChunksRequest, GetCheckpointRequest,
    PublishCheckpointRequest, ReadChunksRequest, WriteChunksRequest,
};
use espalier_registry::{ClientError, Digest};
use tonic::Code;

use crate::common::{Registry, is_missing, raw, upload};
use crate::hostile::Hostile;
use crate::manifests::{DATA, chunk, digests, file, id, of_chunks, of_files};

#[tokio::test]
async fn what_is_nearly_a_digest_is_none() {
    let registry = Registry::start().await;
    upload(&registry, DATA).await;
    let mut rpc = registry.rpc().await;
    for digest in digests(DATA) {
        let chunks = vec![id(digest.clone(), DATA)];
        let mut written = raw(DATA);
        written.id = chunks.first().cloned();
        let find = rpc
            .find_missing_chunks(FindMissingChunksRequest {
                chunks: chunks.clone(),
                lease: String::new(),
            })
            .await
            .map(drop);
        let read = rpc
            .read_chunks(ReadChunksRequest {
                chunks: chunks.clone(),
                ..Default::default()
            })
            .await
            .map(drop);
        let check = rpc
            .check_chunks(CheckChunksRequest { chunks })
            .await
            .map(drop);
        let write = rpc
            .write_chunks(WriteChunksRequest {
                chunks: vec![written],
                lease: String::new(),
            })
            .await
            .map(drop);
        let get = rpc
            .get_checkpoint(GetCheckpointRequest {
                reference: format!("demo@{digest}"),
                lease: String::new(),
            })
            .await
            .map(drop);
        let publish = rpc
            .publish_checkpoint(PublishCheckpointRequest {
                request_id: "1".to_owned(),
                name: "demo".to_owned(),
                manifest: of_files(&of_chunks(
                    "a",
                    &chunk(&digest.escape_default().to_string(), 4),
                    4,
                ))
                .into(),
                ..Default::default()
            })
            .await
            .map(drop);
        for answer in [find, read, check, write, get, publish] {
            let status = answer.expect_err(&digest);
            assert_eq!(status.code(), Code::InvalidArgument, "{digest:?}: {status}");
        }
    }
}

#[tokio::test]
async fn the_digest_of_compressed_bytes_names_nothing() {
    let registry = Registry::start().await;
    let mut rpc = registry.rpc().await;
    let packed = zstd::bulk::compress(DATA, 1).expect("compresses");
    // Compressed bytes under their own digest, to be unpacked; and raw ones said to be compressed.
    let mut compressed = raw(&packed);
    compressed.encoding = Encoding::Zstd.into();
    let mut plain = raw(DATA);
    plain.encoding = Encoding::Zstd.into();
    let mut unknown = raw(DATA);
    unknown.encoding = 7;
    for (chunk, code) in [
        (compressed, Code::DataLoss),
        (plain, Code::DataLoss),
        (unknown, Code::InvalidArgument),
    ] {
        let request = WriteChunksRequest {
            chunks: vec![chunk],
            lease: String::new(),
        };
        let status = rpc.write_chunks(request).await.expect_err("confused");
        assert_eq!(status.code(), code, "{status}");
    }
    assert!(is_missing(&registry, DATA).await);
    assert!(is_missing(&registry, &packed).await);
}

#[tokio::test]
async fn a_manifest_stored_as_a_chunk_is_no_checkpoint() {
    let registry = Registry::start().await;
    let manifest = of_files(&file("weights"));
    upload(&registry, DATA).await;
    upload(&registry, manifest.as_bytes()).await;
    let digest = Digest::of(manifest.as_bytes());
    let mut rpc = registry.rpc().await;
    for reference in [digest.to_string(), format!("demo@{digest}")] {
        let request = GetCheckpointRequest {
            reference,
            lease: String::new(),
        };
        let status = rpc.get_checkpoint(request).await.expect_err("a chunk");
        assert_eq!(status.code(), Code::NotFound, "{status}");
    }
    // And a checkpoint that was published cannot be read as a chunk.
    let published = of_files(&file("other"));
    let request = PublishCheckpointRequest {
        request_id: "1".to_owned(),
        name: "demo".to_owned(),
        manifest: published.clone().into(),
        ..Default::default()
    };
    rpc.publish_checkpoint(request).await.expect("publishes");
    let request = ReadChunksRequest {
        chunks: vec![crate::common::id(published.as_bytes())],
        ..Default::default()
    };
    let status = rpc.read_chunks(request).await.expect_err("a manifest");
    assert_eq!(status.code(), Code::NotFound, "{status}");
}

#[tokio::test]
async fn a_checkpoint_of_one_name_is_not_found_under_another() {
    let registry = Registry::start().await;
    upload(&registry, DATA).await;
    let mut rpc = registry.rpc().await;
    let manifest = of_files(&file("weights"));
    let digest = Digest::of(manifest.as_bytes());
    let publish = |name: &str| PublishCheckpointRequest {
        request_id: format!("as-{name}"),
        name: name.to_owned(),
        manifest: manifest.clone().into(),
        ..Default::default()
    };
    let status = rpc
        .publish_checkpoint(publish("victim"))
        .await
        .expect_err("of demo");
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    rpc.publish_checkpoint(publish("demo"))
        .await
        .expect("publishes");
    let request = GetCheckpointRequest {
        reference: format!("victim@{digest}"),
        lease: String::new(),
    };
    let status = rpc.get_checkpoint(request).await.expect_err("of demo");
    assert_eq!(status.code(), Code::NotFound, "{status}");
    let request = espalier_proto::v1::UpdateAliasRequest {
        name: "victim".to_owned(),
        alias: "best".to_owned(),
        target: Some(espalier_proto::v1::update_alias_request::Target::Digest(
            digest.to_string(),
        )),
        ..Default::default()
    };
    let status = rpc.update_alias(request).await.expect_err("of demo");
    assert_eq!(status.code(), Code::NotFound, "{status}");
}

#[tokio::test]
async fn another_manifest_and_other_chunks_than_asked_for_are_not_taken() {
    let (asked, given) = (of_files(&file("asked")), of_files(&file("given")));
    let digest = Digest::of(asked.as_bytes()).to_string();
    // The given one, under its own digest and under the one that was asked for.
    for claimed in [Digest::of(given.as_bytes()).to_string(), digest.clone()] {
        let mut hostile = Hostile::with_manifest(given.clone());
        hostile.checkpoint.checkpoint.as_mut().unwrap().digest = claimed;
        let (client, _guard) = hostile.serve().await;
        for reference in [digest.clone(), format!("demo@{digest}")] {
            let error = client.get(&reference).await.expect_err("another");
            assert!(matches!(error, ClientError::Corrupt { .. }), "{error}");
        }
    }
    let missing = Vec::new();
    let other = vec![raw(b"evil")];
    let mut renamed = raw(b"evil");
    renamed.id = Some(crate::common::id(DATA));
    for chunks in [missing, other, vec![renamed]] {
        let hostile = Hostile {
            chunks,
            ..Hostile::with_manifest(asked.clone())
        };
        let (client, _guard) = hostile.serve().await;
        let out = tempfile::tempdir().expect("tempdir");
        let target = out.path().join("target");
        let error = client.pull(&digest, &target, |_, _| {}).await;
        let error = error.expect_err("other bytes");
        assert!(matches!(error, ClientError::Corrupt { .. }), "{error}");
        assert!(!target.exists());
    }
}
