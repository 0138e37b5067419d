//! Health, reflection, and one coordinator per folder.

use espalier_coordinator::{Options, run};
use tokio::net::TcpListener;
use tokio_stream::StreamExt as _;
use tokio_util::sync::CancellationToken;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use crate::bench::{Bench, spec};

const SERVICES: [&str; 4] = [
    "espalier.v1.JobService",
    "espalier.v1.RegistryService",
    "espalier.v1.TokenService",
    "espalier.v1.WorkerService",
];

#[tokio::test]
async fn every_service_is_healthy() {
    let bench = Bench::start().await;
    let mut health = HealthClient::new(bench.channel().await);
    for service in SERVICES {
        let request = HealthCheckRequest {
            service: service.to_owned(),
        };
        let answer = health.check(request).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service}");
    }
}

#[tokio::test]
async fn reflection_lists_every_service() {
    let bench = Bench::start().await;
    let mut reflection = ServerReflectionClient::new(bench.channel().await);
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let answers = reflection
        .server_reflection_info(tokio_stream::iter([request]))
        .await
        .unwrap();
    let answer = answers.into_inner().next().await.unwrap().unwrap();
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
        panic!("no list of services: {answer:?}");
    };
    let names: Vec<String> = list
        .service
        .into_iter()
        .map(|service| service.name)
        .collect();
    for service in SERVICES {
        assert!(names.contains(&service.to_owned()), "{names:?}");
    }
}

#[tokio::test]
async fn a_second_coordinator_on_the_folder_is_refused() {
    let bench = Bench::start().await;
    // Answers, so it has its folder open.
    bench.submit("r1", &spec(1, 1)).await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let options = Options {
        data_dir: bench.data_dir().to_owned(),
        ..Options::default()
    };
    let refused = run(options, listener, CancellationToken::new())
        .await
        .unwrap_err();
    let text = refused.to_string();
    assert!(
        text.contains("state.redb is in use by another process"),
        "{text}"
    );
}

#[tokio::test]
async fn a_folder_that_cannot_be_made_is_named() {
    let bench = Bench::start().await;
    let file = bench.dir().join("file");
    std::fs::write(&file, "").unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let options = Options {
        data_dir: file.join("data"),
        ..Options::default()
    };
    let refused = run(options, listener, CancellationToken::new())
        .await
        .unwrap_err();
    assert!(refused.to_string().starts_with(&format!(
        "cannot make the data folder {}",
        file.join("data").display()
    )));
}
