//! Who may do what, over real gRPC; and the audit log of it.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use espalier_auth::{Access, AccessArgs, Token};
use espalier_coordinator::{Auth, AuthOptions, Options, ServeError, run};
use espalier_proto::v1::registry_service_client::RegistryServiceClient;
use espalier_proto::v1::session_response::Message as Answer;
use espalier_proto::v1::token_service_client::TokenServiceClient;
use espalier_proto::v1::update_alias_request::Target;
use espalier_proto::v1::*;
use espalier_registry::{Client, Kind, PublishRequest};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt as _;

use crate::bench::{Bench, Caller, PATIENCE, Worker, spec};

fn required() -> Options {
    Options {
        auth: AuthOptions {
            auth: Auth::Required,
            ..AuthOptions::default()
        },
        ..Options::default()
    }
}

fn access(token: Option<String>) -> Access {
    Access::new(AccessArgs {
        token,
        ..AccessArgs::default()
    })
    .unwrap()
}

/// A coordinator that asks for tokens, called by whoever may do everything.
async fn guarded() -> Bench {
    let mut bench = Bench::with(required()).await;
    let path = bench.data_dir().join("admin-token");
    let read = async {
        loop {
            match std::fs::read_to_string(&path) {
                Ok(text) => break text,
                // It starts in a task of its own.
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    };
    let text = tokio::time::timeout(PATIENCE, read).await.unwrap();
    bench.access = access(Some(text.trim().to_owned()));
    bench
}

async fn tokens(bench: &Bench) -> TokenServiceClient<Caller> {
    TokenServiceClient::new(bench.caller().await)
}

async fn registry(bench: &Bench) -> RegistryServiceClient<Caller> {
    RegistryServiceClient::new(bench.caller().await)
}

fn request(token: &Token, scopes: &[&str]) -> CreateTokenRequest {
    CreateTokenRequest {
        name: token.name().to_owned(),
        sha256: token.hash().bytes().to_vec().into(),
        scopes: scopes.iter().map(|&scope| scope.to_owned()).collect(),
        expire_time: None,
    }
}

/// Makes a token and gives the access that it is.
async fn created(bench: &Bench, name: &str, scopes: &[&str]) -> Access {
    let token = Token::generate(name).unwrap();
    let request = request(&token, scopes);
    tokens(bench).await.create_token(request).await.unwrap();
    access(Some(token.reveal()))
}

#[track_caller]
fn assert_lacks(status: &Status, scope: &str) {
    assert_eq!(status.code(), Code::PermissionDenied, "{status}");
    let info = status.get_details_error_info().unwrap();
    assert_eq!(info.reason, "SCOPE_MISSING");
    assert_eq!(info.metadata["scope"], scope, "{status}");
    assert!(status.message().contains(scope), "{status}");
}

/// Pushes a little checkpoint.
async fn push(bench: &Bench, name: &str) -> Result<String, Status> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("weights"), name).unwrap();
    let client = Client::connect_as(bench.endpoint(), &bench.access)
        .await
        .unwrap();
    let request = PublishRequest::new(name, Kind::Model);
    match client.push(dir.path(), &request, |_, _| {}).await {
        Ok(digest) => Ok(digest),
        Err(espalier_registry::ClientError::Rpc { status, .. }) => Err(*status),
        Err(other) => panic!("{other}"),
    }
}

#[tokio::test]
async fn without_a_token_only_health_answers() {
    let mut bench = guarded().await;
    let other = Token::generate("admin").unwrap().reveal();
    for (token, reason) in [(None, "NO_TOKEN"), (Some(other), "UNKNOWN_TOKEN")] {
        bench.access = access(token);
        let refused = [
            bench.submit("r1", &spec(1, 1)).await.map(drop),
            bench
                .jobs()
                .await
                .list_jobs(ListJobsRequest::default())
                .await
                .map(drop),
            bench
                .workers()
                .await
                .list_workers(ListWorkersRequest {})
                .await
                .map(drop),
            registry(&bench)
                .await
                .get_usage(GetUsageRequest {})
                .await
                .map(drop),
            tokens(&bench)
                .await
                .list_tokens(ListTokensRequest {})
                .await
                .map(drop),
            bench
                .workers()
                .await
                .session(tokio_stream::pending::<SessionRequest>())
                .await
                .map(drop),
        ];
        for answer in refused {
            let status = answer.unwrap_err();
            assert_eq!(status.code(), Code::Unauthenticated, "{status}");
            assert_eq!(status.get_details_error_info().unwrap().reason, reason);
        }
        let mut health = HealthClient::new(bench.channel().await);
        health.check(HealthCheckRequest::default()).await.unwrap();
    }
}

#[tokio::test]
async fn a_token_does_what_its_scopes_say_and_nothing_else() {
    let mut bench = guarded().await;
    let (ours, theirs) = (
        push(&bench, "team-a-vit").await.unwrap(),
        push(&bench, "team-b-vit").await.unwrap(),
    );
    let admin = bench.access.clone();
    let reader = created(&bench, "reader", &["read:team-a-*"]).await;
    let writer = created(&bench, "writer", &["write:team-a-*"]).await;
    let jobs = created(&bench, "jobs", &["jobs:small"]).await;
    let get = |reference: &str| GetCheckpointRequest {
        reference: reference.to_owned(),
        lease: String::new(),
    };
    let alias = |name: &str, digest: &str, force: bool| UpdateAliasRequest {
        name: name.to_owned(),
        alias: "best".to_owned(),
        target: Some(Target::Digest(digest.to_owned())),
        force,
        ..UpdateAliasRequest::default()
    };
    let delete = |reference: &str| DeleteCheckpointRequest {
        reference: reference.to_owned(),
    };

    bench.access = reader;
    let mut rpc = registry(&bench).await;
    rpc.get_checkpoint(get(&ours)).await.unwrap();
    rpc.get_checkpoint(get(&format!("team-a-vit@{ours}")))
        .await
        .unwrap();
    // Whatever way it is named, and also when it is given another's name.
    assert_lacks(
        &rpc.get_checkpoint(get(&theirs)).await.unwrap_err(),
        "read:team-b-vit",
    );
    let named = rpc
        .get_checkpoint(get("team-b-vit:best"))
        .await
        .unwrap_err();
    assert_lacks(&named, "read:team-b-vit");
    let renamed = rpc
        .get_checkpoint(get(&format!("team-a-vit@{theirs}")))
        .await
        .unwrap_err();
    assert_eq!(renamed.code(), Code::NotFound);
    let listed = rpc
        .list_checkpoints(ListCheckpointsRequest::default())
        .await
        .unwrap();
    let names: BTreeSet<String> = listed
        .into_inner()
        .checkpoints
        .into_iter()
        .map(|c| c.name)
        .collect();
    assert_eq!(names, BTreeSet::from(["team-a-vit".to_owned()]));
    assert_lacks(&push(&bench, "team-a-vit").await.unwrap_err(), "write:*");
    let status = rpc
        .update_alias(alias("team-a-vit", &ours, false))
        .await
        .unwrap_err();
    assert_lacks(&status, "write:team-a-vit");
    assert_lacks(
        &bench.submit("r1", &spec(1, 1)).await.unwrap_err(),
        "jobs:small",
    );

    bench.access = writer;
    let mut rpc = registry(&bench).await;
    push(&bench, "team-a-other").await.unwrap();
    assert_lacks(
        &push(&bench, "team-b-other").await.unwrap_err(),
        "write:team-b-other",
    );
    rpc.update_alias(alias("team-a-vit", &ours, false))
        .await
        .unwrap();
    let status = rpc
        .update_alias(alias("team-a-vit", &ours, true))
        .await
        .unwrap_err();
    assert_lacks(&status, "admin:team-a-vit");
    assert_lacks(
        &rpc.delete_checkpoint(delete(&ours)).await.unwrap_err(),
        "admin:team-a-vit",
    );
    let gc = CollectGarbageRequest { dry_run: true };
    assert_lacks(&rpc.collect_garbage(gc).await.unwrap_err(), "admin:*");
    let status = tokens(&bench)
        .await
        .list_tokens(ListTokensRequest {})
        .await
        .unwrap_err();
    assert_lacks(&status, "admin:*");

    bench.access = jobs;
    let job = bench.submit("r1", &spec(1, 1)).await.unwrap();
    let other = spec(1, 1).replace("\"small\"", "\"team-b-vit\"");
    assert_lacks(
        &bench.submit("r2", &other).await.unwrap_err(),
        "jobs:team-b-vit",
    );
    let taught = spec(1, 1).replace(
        "[train]",
        "[train]\ndistillation = { teacher = \"team-b-vit:best\" }",
    );
    assert_lacks(
        &bench.submit("r3", &taught).await.unwrap_err(),
        "read:team-b-vit",
    );
    let cancel = CancelJobRequest {
        job_id: job.job_id.clone(),
        reason: "enough".to_owned(),
    };
    bench.jobs().await.cancel_job(cancel.clone()).await.unwrap();

    bench.access = admin;
    bench.access = created(&bench, "other-jobs", &["jobs:other", "read:*"]).await;
    let status = bench.jobs().await.cancel_job(cancel).await.unwrap_err();
    assert_lacks(&status, "jobs:small");
    bench.job(&job.job_id).await;
}

#[tokio::test]
async fn nobody_acts_for_another_worker() {
    let mut bench = guarded().await;
    let admin = bench.access.clone();
    let job = bench.submit("r1", &spec(1, 1)).await.unwrap();
    let (a, b) = (
        created(&bench, "a", &["worker:w-a"]).await,
        created(&bench, "b", &["worker:w-b"]).await,
    );
    bench.access = b.clone();
    let mut impostor = Worker::open(&bench, "w-a", "i1", &[]).await;
    assert_lacks(&impostor.message().await.unwrap_err(), "worker:w-a");

    bench.access = a.clone();
    let mut worker = Worker::join(&bench, "w-a", "a1", &[]).await;
    let start = worker.started().await;
    worker.report(&start, RankState::Running).await;
    // Another worker knows the job and its generation, and may not commit its steps; nor may whoever
    // writes every name.
    bench.access = admin;
    let writer = created(&bench, "writer", &["write:*"]).await;
    for other in [b, writer] {
        bench.access = other;
        let error = bench
            .push(&job.job_id, start.generation, 10, false)
            .await
            .unwrap_err();
        let espalier_registry::ClientError::Rpc { status, .. } = error else {
            panic!("{error}");
        };
        assert_lacks(&status, "worker:w-a");
    }
    bench.access = a;
    bench
        .push(&job.job_id, start.generation, 10, false)
        .await
        .unwrap();
    // An older generation is the ledger's to refuse.
    let stale = bench
        .push(&job.job_id, start.generation - 1, 20, false)
        .await
        .unwrap_err();
    assert_eq!(stale.reason().as_deref(), Some("STALE_GENERATION"));
}

#[tokio::test]
async fn tokens_end_and_are_revoked_and_outlive_the_coordinator() {
    let mut bench = guarded().await;
    let admin = bench.access.clone();
    let lasting = created(&bench, "lasting", &["read:*"]).await;
    let token = Token::generate("short").unwrap();
    let soon = SystemTime::now() + Duration::from_secs(2);
    let brief = CreateTokenRequest {
        expire_time: Some(soon.into()),
        ..request(&token, &["read:*"])
    };
    let mut rpc = tokens(&bench).await;
    // The same again is the same; another of the name is refused.
    for _ in 0..2 {
        rpc.create_token(brief.clone()).await.unwrap();
    }
    let other = request(&Token::generate("short").unwrap(), &["read:*"]);
    let status = rpc.create_token(other).await.unwrap_err();
    assert_eq!(status.code(), Code::AlreadyExists);
    let listed = rpc
        .list_tokens(ListTokensRequest {})
        .await
        .unwrap()
        .into_inner()
        .tokens;
    let names: Vec<&str> = listed.iter().map(|token| token.name.as_str()).collect();
    assert_eq!(names, ["lasting", "short"]);
    assert_eq!(listed[0].creator, "admin");

    bench.restart().await;
    let used = async |bench: &Bench| {
        let answer = registry(bench).await.get_usage(GetUsageRequest {}).await;
        answer.map(drop)
    };
    bench.access = lasting.clone();
    used(&bench).await.unwrap();
    bench.access = access(Some(token.reveal()));
    let status = loop {
        match used(&bench).await {
            Ok(()) => tokio::time::sleep(Duration::from_millis(50)).await,
            Err(status) => break status,
        }
    };
    assert_eq!(
        status.get_details_error_info().unwrap().reason,
        "EXPIRED_TOKEN"
    );
    assert!(SystemTime::now() >= soon);

    bench.access = admin;
    let revoke = RevokeTokenRequest {
        name: "lasting".to_owned(),
    };
    let mut rpc = tokens(&bench).await;
    rpc.revoke_token(revoke.clone()).await.unwrap();
    assert_eq!(
        rpc.revoke_token(revoke).await.unwrap_err().code(),
        Code::NotFound
    );
    bench.access = lasting;
    let status = used(&bench).await.unwrap_err();
    assert_eq!(
        status.get_details_error_info().unwrap().reason,
        "UNKNOWN_TOKEN"
    );
}

#[tokio::test]
async fn the_audit_log_tells_who_did_what() {
    let mut bench = guarded().await;
    let admin = bench.access.clone();
    let digest = push(&bench, "demo").await.unwrap();
    bench.access = created(&bench, "reader", &["read:*"]).await;
    let alias = UpdateAliasRequest {
        name: "demo".to_owned(),
        alias: "best".to_owned(),
        target: Some(Target::Digest(digest.clone())),
        ..UpdateAliasRequest::default()
    };
    let mut rpc = registry(&bench).await;
    rpc.update_alias(alias.clone()).await.unwrap_err();
    rpc.get_usage(GetUsageRequest {}).await.unwrap();
    bench.access = access(None);
    registry(&bench)
        .await
        .get_usage(GetUsageRequest {})
        .await
        .unwrap_err();
    bench.access = admin;
    registry(&bench).await.update_alias(alias).await.unwrap();

    let text = std::fs::read_to_string(bench.data_dir().join("audit.jsonl")).unwrap();
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let found: Vec<[&str; 4]> = lines
        .iter()
        .map(|line| {
            ["who", "method", "target", "outcome"].map(|field| line[field].as_str().unwrap())
        })
        .collect();
    let published = format!("demo@{digest}");
    assert_eq!(
        found,
        [
            ["admin", "RegistryService/WriteChunks", "", "Ok"],
            [
                "admin",
                "RegistryService/PublishCheckpoint",
                &published,
                "Ok"
            ],
            [
                "admin",
                "TokenService/CreateToken",
                "reader read:*",
                "begun"
            ],
            ["admin", "TokenService/CreateToken", "reader read:*", "Ok"],
            [
                "reader",
                "RegistryService/UpdateAlias",
                "demo:best",
                "PermissionDenied"
            ],
            ["unknown", "RegistryService/GetUsage", "", "Unauthenticated"],
            ["admin", "RegistryService/UpdateAlias", "demo:best", "begun"],
            ["admin", "RegistryService/UpdateAlias", "demo:best", "Ok"],
        ]
    );
    for line in &lines {
        assert!(
            line["peer"].as_str().unwrap().starts_with("127.0.0.1:"),
            "{line}"
        );
        assert!(line["time"].as_str().unwrap().ends_with('Z'), "{line}");
    }
    assert_eq!(lines[2]["call"], lines[3]["call"]);
    assert!(!text.contains("espalier_"), "a token is in the log");
}

#[tokio::test]
async fn tokens_in_the_clear_are_not_taken_from_other_machines() {
    let start = async |options: Options| {
        let dir = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
        let stop = CancellationToken::new();
        stop.cancel();
        let options = Options {
            data_dir: dir.path().join("data"),
            ..options
        };
        run(options, listener, stop).await
    };
    let refused = start(required()).await.unwrap_err();
    assert!(matches!(refused, ServeError::Plaintext(_)), "{refused}");
    assert!(refused.to_string().contains("--tls-cert"), "{refused}");
    let mut asked = required();
    asked.auth.plaintext_tokens = true;
    start(asked).await.unwrap();
}

#[tokio::test]
async fn without_required_nobody_is_asked() {
    let bench = Bench::start().await;
    push(&bench, "demo").await.unwrap();
    let mut worker = Worker::open(&bench, "a", "a1", &[]).await;
    assert!(matches!(worker.next().await, Answer::Registered(_)));
    assert!(!bench.data_dir().join("admin-token").exists());
    let text = std::fs::read_to_string(bench.data_dir().join("audit.jsonl")).unwrap();
    assert!(text.contains("\"anonymous\""), "{text}");
}
