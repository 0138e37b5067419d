//! Little that becomes much.

use std::io::Write as _;

use espalier_proto::v1::{Chunk, Encoding, PublishCheckpointRequest, WriteChunksRequest};
use espalier_registry::{ClientError, Digest, MAX_FILES, MAX_MANIFEST};
use tonic::Code;

use crate::common::{REQUEST, Registry, assert_same, id, is_missing, raw, upload, write};
use crate::hostile::Hostile;
use crate::manifests::{DATA, chunk, file, of_chunks, of_files};

const MIB: usize = 1 << 20;

/// 64 MiB in a few kilobytes: a frame that tells its size, one that does not, and two in a row.
fn bombs() -> [(&'static str, Vec<u8>); 4] {
    let zeros = vec![0; 64 * MIB];
    let told = zstd::bulk::compress(&zeros, 3).expect("compresses");
    let mut untold = zstd::stream::Encoder::new(Vec::new(), 3).expect("makes");
    untold.include_contentsize(false).expect("sets");
    untold.write_all(&zeros).expect("compresses");
    let untold = untold.finish().expect("compresses");
    let after_another = [
        zstd::bulk::compress(DATA, 1).expect("compresses"),
        untold.clone(),
    ]
    .concat();
    // Its header asks for the largest window there is.
    let window = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xf8, 0x01, 0x00, 0x00];
    [
        ("told", told),
        ("untold", untold),
        ("after another", after_another),
        ("window", window),
    ]
}

fn packed(claimed: &[u8], data: Vec<u8>) -> Chunk {
    Chunk {
        id: Some(id(claimed)),
        encoding: Encoding::Zstd.into(),
        data: data.into(),
    }
}

#[tokio::test]
async fn chunks_that_unpack_to_more_than_they_say_are_not_stored() {
    let registry = Registry::start().await;
    let mut rpc = registry.rpc().await;
    // As long as a chunk may be, so that only unpacking it tells.
    let claimed = vec![0; 4 * MIB];
    for (what, data) in bombs() {
        let request = WriteChunksRequest {
            chunks: vec![packed(&claimed, data)],
            lease: String::new(),
        };
        let status = rpc.write_chunks(request).await.expect_err(what);
        assert_eq!(status.code(), Code::DataLoss, "{what}: {status}");
    }
    assert!(is_missing(&registry, &claimed).await);
}

#[tokio::test]
async fn chunks_that_unpack_to_more_than_they_say_are_not_taken_by_a_pull() {
    for (what, data) in bombs() {
        let hostile = Hostile {
            chunks: vec![packed(DATA, data)],
            ..Hostile::with_manifest(of_files(&file("weights")))
        };
        let (client, _guard) = hostile.serve().await;
        let out = tempfile::tempdir().expect("tempdir");
        let target = out.path().join("target");
        let error = client
            .pull("demo", &target, |_, _| {})
            .await
            .expect_err(what);
        assert!(
            matches!(error, ClientError::Corrupt { .. }),
            "{what}: {error}"
        );
        assert!(!target.exists(), "{what}");
    }
}

#[tokio::test]
async fn a_batch_that_unpacks_to_gigabytes_is_not_unpacked() {
    let registry = Registry::start().await;
    let mut rpc = registry.rpc().await;
    let zeros = vec![0; 4 * MIB];
    let small = zstd::bulk::compress(&zeros, 3).expect("compresses");
    let request = WriteChunksRequest {
        chunks: vec![packed(&zeros, small); 1000],
        lease: String::new(),
    };
    let status = rpc.write_chunks(request).await.expect_err("4 GB of work");
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    assert!(status.message().contains("before compression"), "{status}");
}

#[tokio::test]
async fn manifests_out_of_bounds_are_refused_at_publish_and_at_pull() {
    let digest = Digest::of(DATA).to_string();
    let many: Vec<String> = (0..=MAX_FILES)
        .map(|i| of_chunks(&format!("{i:05}"), "", 0).replace("application/octet-stream", ""))
        .collect();
    let cases = [
        ("too many bytes", " ".repeat(MAX_MANIFEST + 1)),
        ("too many files", of_files(&many.join(","))),
        ("no files", of_files("")),
        ("nested", "[".repeat(MAX_MANIFEST / 2)),
        (
            "report nested",
            of_files(&file("a")).replace(
                "\"report\":null",
                &format!("\"report\":{}0{}", "[".repeat(5000), "]".repeat(5000)),
            ),
        ),
        (
            "chunk too large",
            of_files(&of_chunks("a", &chunk(&digest, 5 << 20), 5 << 20)),
        ),
        (
            "chunk of nothing",
            of_files(&of_chunks("a", &chunk(&digest, 0), 0)),
        ),
        (
            "sum too small",
            of_files(&of_chunks("a", &chunk(&digest, 4), 3)),
        ),
        (
            "sum overflows",
            of_files(&of_chunks(
                "a",
                &[chunk(&digest, u64::MAX), chunk(&digest, 5)].join(","),
                4,
            )),
        ),
        (
            "size beyond 64 bits",
            of_files(&file("a")).replace("\"size\":4", "\"size\":18446744073709551616"),
        ),
        (
            "size negative",
            of_files(&file("a")).replace("\"size\":4", "\"size\":-4"),
        ),
        (
            "size a float",
            of_files(&file("a")).replace("\"size\":4", "\"size\":4.0"),
        ),
        (
            "a field twice",
            of_files(&file("a")).replace("\"size\":4", "\"size\":4,\"size\":4"),
        ),
        (
            "a media type that moves the cursor",
            of_files(&file("a")).replace("application/octet-stream", "\\u001b[2J"),
        ),
        (
            "a job that moves the cursor",
            of_files(&file("a")).replace("\"job\":null", "\"job\":\"\\u001b[2J\""),
        ),
    ];
    let registry = Registry::start().await;
    upload(&registry, DATA).await;
    let mut rpc = registry.rpc().await;
    for (what, manifest) in cases {
        let request = PublishCheckpointRequest {
            request_id: "1".to_owned(),
            name: "demo".to_owned(),
            manifest: manifest.clone().into(),
            ..PublishCheckpointRequest::default()
        };
        let status = rpc.publish_checkpoint(request).await.expect_err(what);
        assert_eq!(status.code(), Code::InvalidArgument, "{what}: {status}");
        let (client, _guard) = Hostile::with_manifest(manifest).serve().await;
        let error = client.get("demo").await.expect_err(what);
        assert!(matches!(error, ClientError::Manifest(_)), "{what}: {error}");
    }
}

#[tokio::test]
async fn answers_larger_than_a_message_are_not_read() {
    let hostile = Hostile::with_manifest(vec![b' '; 32 * MIB]);
    let (client, _guard) = hostile.serve().await;
    let error = client.get("demo").await.expect_err("too large");
    assert_eq!(error.code(), Some(Code::OutOfRange), "{error}");
}

#[tokio::test]
async fn headers_that_lie_cut_nothing_wrong() {
    let registry = Registry::start().await;
    let client = registry.client().await;
    let header =
        |json: &str, length: u64| [&length.to_le_bytes()[..], json.as_bytes(), b"data"].concat();
    let honest = |json: &str| header(json, json.len() as u64);
    let files = [
        ("longer than the file", header("{}", u64::MAX)),
        ("longer than is looked into", header("{}", 17 << 20)),
        (
            "shorter than it is",
            header(r#"{"x":{"data_offsets":[0,4]}}"#, 3),
        ),
        ("out of range", honest(r#"{"x":{"data_offsets":[0,5]}}"#)),
        (
            "overlapping",
            honest(r#"{"x":{"data_offsets":[0,3]},"y":{"data_offsets":[2,4]}}"#),
        ),
        (
            "a hole",
            honest(r#"{"x":{"data_offsets":[0,1]},"y":{"data_offsets":[2,4]}}"#),
        ),
        ("backwards", honest(r#"{"x":{"data_offsets":[4,0]}}"#)),
        (
            "overflowing",
            honest(r#"{"x":{"data_offsets":[0,18446744073709551616]}}"#),
        ),
        (
            "twice",
            honest(r#"{"x":{"data_offsets":[0,4]},"x":{"data_offsets":[0,4]}}"#),
        ),
        ("nested", honest(&"[".repeat(100_000))),
        ("cut short", vec![1, 0, 0]),
    ];
    for (what, bytes) in files {
        let dir = tempfile::tempdir().expect("tempdir");
        write(dir.path(), "model.safetensors", &bytes);
        let digest = client.push(dir.path(), &REQUEST, |_, _| {}).await;
        let target = dir.path().join("pulled");
        let pulled = client.pull(&digest.expect(what), &target, |_, _| {}).await;
        assert_same(dir.path(), &target, &pulled.expect(what).manifest);
    }
}

#[tokio::test]
async fn chunks_larger_than_they_may_be_are_refused_unread() {
    let registry = Registry::start().await;
    let mut rpc = registry.rpc().await;
    for size in [0, (4 << 20) + 1, 1 << 32, u64::MAX] {
        let mut chunk = raw(DATA);
        chunk.id.as_mut().unwrap().size = size;
        let request = WriteChunksRequest {
            chunks: vec![chunk],
            lease: String::new(),
        };
        let status = rpc.write_chunks(request).await.expect_err("size");
        assert_eq!(status.code(), Code::InvalidArgument, "{size}: {status}");
    }
}
