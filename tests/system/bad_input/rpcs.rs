//! Arguments that make no sense: each has its code, and the message names the argument.

use espalier_proto::v1::job_service_client::JobServiceClient;
use espalier_proto::v1::registry_service_client::RegistryServiceClient;
use espalier_proto::v1::{
    CancelJobRequest, Chunk, ChunkId, FindMissingChunksRequest, GetCheckpointRequest,
    GetJobRequest, ListAliasHistoryRequest, ListCheckpointsRequest, ListJobsRequest,
    PublishCheckpointRequest, ReadChunksRequest, StreamLogsRequest, WatchJobRequest,
    WriteChunksRequest,
};
use espalier_tests::Cluster;
use tonic::{Code, Status};

pub(super) const ABSENT: &str =
    "sha256:0000000000000000000000000000000000000000000000000000000000000000";

#[track_caller]
pub(super) fn refused<T>(what: &str, answer: Result<T, Status>, code: Code, named: &str) {
    match answer {
        Ok(_) => panic!("{what} was accepted"),
        Err(status) => {
            assert_eq!(status.code(), code, "{what}: {status}");
            assert!(
                status.message().contains(named),
                "{what}: {named} is not in {:?}",
                status.message()
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_arguments_have_their_codes() {
    let cluster = tokio::task::spawn_blocking(|| Cluster::start(0))
        .await
        .unwrap();
    let mut jobs = JobServiceClient::connect(cluster.endpoint()).await.unwrap();
    let mut registry = RegistryServiceClient::connect(cluster.endpoint())
        .await
        .unwrap();
    let job_id = || "j99999999".to_owned();
    let id = |digest: &str, size| ChunkId {
        digest: digest.to_owned(),
        size,
    };

    let unknown = GetJobRequest { job_id: job_id() };
    refused(
        "an unknown job",
        jobs.get_job(unknown).await,
        Code::NotFound,
        "j99999999",
    );
    let unknown = CancelJobRequest {
        job_id: job_id(),
        reason: String::new(),
    };
    refused(
        "cancelling an unknown job",
        jobs.cancel_job(unknown).await,
        Code::NotFound,
        "j99999999",
    );
    let unknown = WatchJobRequest {
        job_id: job_id(),
        after_cursor: 0,
    };
    refused(
        "watching an unknown job",
        jobs.watch_job(unknown).await,
        Code::NotFound,
        "j99999999",
    );
    let unknown = StreamLogsRequest {
        job_id: job_id(),
        after_cursor: 0,
        follow: true,
    };
    refused(
        "logs of an unknown job",
        jobs.stream_logs(unknown).await,
        Code::NotFound,
        "j99999999",
    );
    let page_token = "not a token".to_owned();
    let page = ListJobsRequest {
        page_size: 1,
        page_token: page_token.clone(),
    };
    refused(
        "a made-up page token",
        jobs.list_jobs(page).await,
        Code::InvalidArgument,
        "page_token",
    );

    let reference = |reference: &str| GetCheckpointRequest {
        reference: reference.to_owned(),
        ..Default::default()
    };
    for (text, code) in [
        ("", Code::InvalidArgument),
        ("a:b:c", Code::InvalidArgument),
        ("../up:latest", Code::InvalidArgument),
        ("name@sha256:12", Code::InvalidArgument),
        ("nobody:latest", Code::NotFound),
        (ABSENT, Code::NotFound),
    ] {
        let named = if code == Code::NotFound {
            text
        } else {
            "reference"
        };
        let answer = registry.get_checkpoint(reference(text)).await;
        refused(text, answer, code, named);
    }
    let page = ListCheckpointsRequest {
        page_token: page_token.clone(),
        ..Default::default()
    };
    refused(
        "a made-up page token",
        registry.list_checkpoints(page).await,
        Code::InvalidArgument,
        "page_token",
    );
    let history = ListAliasHistoryRequest {
        name: "no name".to_owned(),
        ..Default::default()
    };
    refused(
        "a bad name",
        registry.list_alias_history(history).await,
        Code::InvalidArgument,
        "name",
    );

    let read = |digest: &str, size| ReadChunksRequest {
        chunks: vec![id(digest, size)],
        ..Default::default()
    };
    for (what, digest, size, code, named) in [
        (
            "a bad digest",
            "md5:1",
            1,
            Code::InvalidArgument,
            "chunks[0].digest",
        ),
        (
            "a chunk too large",
            ABSENT,
            1 << 40,
            Code::InvalidArgument,
            "chunks[0].size",
        ),
        (
            "an empty chunk",
            ABSENT,
            0,
            Code::InvalidArgument,
            "chunks[0].size",
        ),
        ("an absent chunk", ABSENT, 1, Code::NotFound, "sha256:0000"),
    ] {
        let answer = registry.read_chunks(read(digest, size)).await;
        refused(what, answer, code, named);
    }
    let find = FindMissingChunksRequest {
        chunks: vec![id("sha256:", 1)],
        ..Default::default()
    };
    refused(
        "a bad digest",
        registry.find_missing_chunks(find).await,
        Code::InvalidArgument,
        "chunks[0].digest",
    );

    let chunk = |id: Option<ChunkId>, encoding, data: &'static [u8]| Chunk {
        id,
        encoding,
        data: data.into(),
    };
    for (what, chunk, code, named) in [
        (
            "a chunk without a name",
            chunk(None, 0, b"x"),
            Code::InvalidArgument,
            "chunks[0].id",
        ),
        (
            "bytes of another digest",
            chunk(Some(id(ABSENT, 1)), 0, b"x"),
            Code::DataLoss,
            ABSENT,
        ),
        (
            "more bytes than it says",
            chunk(Some(id(ABSENT, 1)), 0, b"xy"),
            Code::InvalidArgument,
            "chunks[0].data",
        ),
        (
            "an encoding that is not there",
            chunk(Some(id(ABSENT, 1)), 7, b"x"),
            Code::InvalidArgument,
            "chunks[0].encoding",
        ),
        (
            "a bad digest",
            chunk(Some(id("x", 1)), 0, b"x"),
            Code::InvalidArgument,
            "chunks[0].id.digest",
        ),
    ] {
        let request = WriteChunksRequest {
            chunks: vec![chunk],
            ..Default::default()
        };
        refused(what, registry.write_chunks(request).await, code, named);
    }

    let publish = |name: &str, manifest: &'static [u8]| PublishCheckpointRequest {
        request_id: "request".to_owned(),
        name: name.to_owned(),
        manifest: manifest.into(),
        ..Default::default()
    };
    for (what, request, named) in [
        ("a bad name", publish("A B", b"{}"), "name"),
        ("no manifest", publish("name", b""), "manifest"),
        ("no JSON", publish("name", b"{"), "manifest"),
    ] {
        refused(
            what,
            registry.publish_checkpoint(request).await,
            Code::InvalidArgument,
            named,
        );
    }
    let listed = ListCheckpointsRequest {
        include_training: true,
        ..Default::default()
    };
    let listed = registry
        .list_checkpoints(listed)
        .await
        .unwrap()
        .into_inner();
    assert!(listed.checkpoints.is_empty(), "something was published");
}
