//! Arguments that make no sense: each has its code, and the message names the argument.

use espalier_proto::v1::job_service_client::JobServiceClient;
use espalier_proto::v1::registry_service_client::RegistryServiceClient;
use espalier_proto::v1::{
    BlobId, CancelJobRequest, FindMissingBlobsRequest, GetCheckpointRequest, GetJobRequest,
    ListAliasHistoryRequest, ListCheckpointsRequest, ListJobsRequest, PublishCheckpointRequest,
    QueryWriteStatusRequest, ReadBlobRequest, StreamLogsRequest, WatchJobRequest, WriteBlobHeader,
    WriteBlobRequest,
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
    let blob = |digest: &str, size| {
        Some(BlobId {
            digest: digest.to_owned(),
            size,
        })
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

    let read = |digest: &str, offset| ReadBlobRequest {
        digest: digest.to_owned(),
        offset,
    };
    refused(
        "a bad digest",
        registry.read_blob(read("md5:1", 0)).await,
        Code::InvalidArgument,
        "digest",
    );
    refused(
        "an absent blob",
        registry.read_blob(read(ABSENT, 0)).await,
        Code::NotFound,
        "sha256:0000",
    );
    let query = QueryWriteStatusRequest {
        blob: blob("sha256:zz", 1),
    };
    refused(
        "a bad digest",
        registry.query_write_status(query).await,
        Code::InvalidArgument,
        "blob.digest",
    );
    let find = FindMissingBlobsRequest {
        blobs: blob("sha256:", 1).into_iter().collect(),
    };
    refused(
        "a bad digest",
        registry.find_missing_blobs(find).await,
        Code::InvalidArgument,
        "blobs[0].digest",
    );

    let write = |header: Option<WriteBlobHeader>, data: &'static [u8]| WriteBlobRequest {
        header,
        data: data.into(),
        finish: true,
    };
    let header = |digest, size, offset| {
        Some(WriteBlobHeader {
            blob: blob(digest, size),
            offset,
        })
    };
    for (what, message, code, named) in [
        (
            "an upload without a header",
            write(None, b"x"),
            Code::InvalidArgument,
            "header",
        ),
        (
            "bytes of another digest",
            write(header(ABSENT, 1, 0), b"x"),
            Code::DataLoss,
            ABSENT,
        ),
        (
            "an offset that is not there",
            write(header(ABSENT, 9, 5), b"x"),
            Code::OutOfRange,
            "offset",
        ),
        (
            "a bad digest",
            write(header("x", 1, 0), b"x"),
            Code::InvalidArgument,
            "header.blob.digest",
        ),
    ] {
        let upload = tokio_stream::iter(vec![message]);
        refused(what, registry.write_blob(upload).await, code, named);
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
