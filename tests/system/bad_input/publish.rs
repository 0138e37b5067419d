//! Checkpoints that must not be published: chunks cut short, manifests that are not right, aliases
//! that moved. Whatever is refused leaves no trace in the registry's lists.

use espalier_proto::v1::registry_service_client::RegistryServiceClient;
use espalier_proto::v1::{
    Chunk, ChunkId, ListAliasHistoryRequest, ListCheckpointsRequest, PublishCheckpointRequest,
    StepCommit, WriteChunksRequest,
};
use espalier_tests::Cluster;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tonic::Code;
use tonic::transport::Channel;

use super::rpcs::{ABSENT, refused};

const CONTENT: &[u8] = b"weights of a model";

/// Where in a good manifest, what is put there, and what the refusal names.
const MANIFESTS: &[(&str, &str, &str)] = &[
    ("/espalier", "1", "version 1"),
    ("/kind", "\"toy\"", "toy"),
    ("/name", "\"other\"", "name"),
    ("/name", "\"No Name\"", "manifest.name"),
    ("/files/0/path", "\"/etc/passwd\"", "files[0].path"),
    ("/files/0/path", "\"../up\"", "files[0].path"),
    ("/files/0/path", "\"\"", "files[0].path"),
    ("/files/0/chunks/0/digest", "\"md5:1\"", "md5:1"),
    ("/files/0/chunks/0/size", "17", "files[0].chunks"),
    ("/files/0/chunks", "[]", "files[0].chunks"),
    ("/files/0/size", "-1", "manifest"),
    ("/files", "[]", "manifest.files"),
    ("/files", "3", "manifest"),
    ("/lineage", "{\"job\":7}", "manifest"),
    ("/lineage/parent", "\"nobody\"", "nobody"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_right_is_not_published() {
    let cluster = tokio::task::spawn_blocking(|| Cluster::start(0))
        .await
        .unwrap();
    let mut registry = RegistryServiceClient::connect(cluster.endpoint())
        .await
        .unwrap();
    let good = manifest();

    let early = registry.publish_checkpoint(publish("early", &good)).await;
    refused(
        "a missing chunk",
        early,
        Code::FailedPrecondition,
        "missing",
    );

    // Half a chunk is none.
    let half = upload(&mut registry, &CONTENT[..7]).await;
    refused("half a chunk", half, Code::DataLoss, "bytes, not");
    let early = registry.publish_checkpoint(publish("half", &good)).await;
    refused("half a chunk", early, Code::FailedPrecondition, "missing");
    upload(&mut registry, CONTENT).await.unwrap();

    for (index, (pointer, put, named)) in MANIFESTS.iter().enumerate() {
        let mut bad = good.clone();
        *bad.pointer_mut(pointer).unwrap() = serde_json::from_str(put).unwrap();
        let answer = registry
            .publish_checkpoint(publish(&format!("bad-{index}"), &bad))
            .await;
        let what = format!("{pointer} = {put}");
        refused(&what, answer, Code::InvalidArgument, named);
    }
    for (what, bytes, named) in [
        ("a cut manifest", &good.to_string()[..40], "manifest"),
        ("a spaced manifest", &format!("{good:#}"), "canonical"),
    ] {
        let request = PublishCheckpointRequest {
            manifest: bytes.to_owned().into(),
            ..publish(&what.replace(' ', "-"), &good)
        };
        let answer = registry.publish_checkpoint(request).await;
        refused(what, answer, Code::InvalidArgument, named);
    }

    let mut made_by_a_job = good.clone();
    made_by_a_job["kind"] = "training".into();
    made_by_a_job["name"] = "job-j99999999".into();
    made_by_a_job["lineage"] = json!({
        "job": "j99999999", "generation": 1, "step": 10, "parent": null, "teacher": null, "seed": 0,
    });
    let of_a_job = PublishCheckpointRequest {
        name: "job-j99999999".to_owned(),
        commit: Some(StepCommit {
            job_id: "j99999999".to_owned(),
            generation: 1,
            step: 10,
            r#final: false,
        }),
        ..publish("job", &made_by_a_job)
    };
    let answer = registry.publish_checkpoint(of_a_job).await;
    refused("a job that is not", answer, Code::NotFound, "j99999999");
    let moved = PublishCheckpointRequest {
        expected_alias_digest: Some(ABSENT.to_owned()),
        ..publish("moved", &good)
    };
    let answer = registry.publish_checkpoint(moved).await;
    refused(
        "an alias that is not there",
        answer,
        Code::Aborted,
        "latest",
    );

    let all = || ListCheckpointsRequest {
        include_training: true,
        ..Default::default()
    };
    let listed = registry.list_checkpoints(all()).await.unwrap();
    assert!(
        listed.get_ref().checkpoints.is_empty(),
        "something was published"
    );
    let history = ListAliasHistoryRequest {
        name: "pushed".to_owned(),
        alias: "latest".to_owned(),
        ..Default::default()
    };
    if let Ok(history) = registry.list_alias_history(history).await {
        assert!(history.get_ref().moves.is_empty(), "an alias moved");
    }

    // What was varied is good: it is published, once.
    registry
        .publish_checkpoint(publish("good", &good))
        .await
        .unwrap();
    registry
        .publish_checkpoint(publish("good", &good))
        .await
        .unwrap();
    let again = PublishCheckpointRequest {
        expected_alias_digest: Some(String::new()),
        ..publish("again", &good)
    };
    let answer = registry.publish_checkpoint(again).await;
    refused("an alias that is there", answer, Code::Aborted, "latest");
    let listed = registry.list_checkpoints(all()).await.unwrap();
    assert_eq!(listed.get_ref().checkpoints.len(), 1);
}

fn manifest() -> Value {
    json!({
        "espalier": 2,
        "kind": "model",
        "name": "pushed",
        "files": [{
            "path": "model.safetensors",
            "size": CONTENT.len(),
            "media_type": "application/octet-stream",
            "chunks": [{"digest": digest(), "size": CONTENT.len()}],
        }],
        "lineage": {
            "job": null, "generation": null, "step": null, "parent": null, "teacher": null, "seed": null,
        },
        "report": null,
    })
}

fn publish(request_id: &str, manifest: &Value) -> PublishCheckpointRequest {
    PublishCheckpointRequest {
        request_id: request_id.to_owned(),
        name: "pushed".to_owned(),
        manifest: manifest.to_string().into(),
        alias: "latest".to_owned(),
        ..Default::default()
    }
}

fn digest() -> String {
    let hex: String = Sha256::digest(CONTENT)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("sha256:{hex}")
}

/// Writes bytes as the chunk that [`CONTENT`] is.
async fn upload(
    registry: &mut RegistryServiceClient<Channel>,
    bytes: &[u8],
) -> Result<(), tonic::Status> {
    let chunk = Chunk {
        id: Some(ChunkId {
            digest: digest(),
            size: CONTENT.len() as u64,
        }),
        data: bytes.to_vec().into(),
        ..Default::default()
    };
    let request = WriteChunksRequest {
        chunks: vec![chunk],
        ..Default::default()
    };
    registry.write_chunks(request).await.map(drop)
}
