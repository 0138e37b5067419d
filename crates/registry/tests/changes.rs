//! Aliases, labels, search, deletion, retention and the quota, over a real connection.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{Registry, checkpoint, request, write};
use espalier_proto::v1::registry_service_client::RegistryServiceClient;
use espalier_proto::v1::update_alias_request::Target;
use espalier_proto::v1::*;
use espalier_registry::{Client, ClientError, Expected, Kind, Lineage, PublishRequest, SecretKey};
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

async fn push(client: &Client, seed: u64, alias: Option<&str>) -> String {
    let dir = checkpoint(seed);
    write(
        dir.path(),
        "report.json",
        format!(r#"{{"accuracy":{seed}}}"#).as_bytes(),
    );
    let request = PublishRequest {
        actor: "ann".to_owned(),
        ..request("demo", alias.map(|alias| (alias, Expected::Any)))
    };
    client
        .push(dir.path(), &request, |_, _| {})
        .await
        .expect("pushes")
}

fn change(target: Option<Target>) -> UpdateAliasRequest {
    UpdateAliasRequest {
        name: "demo".to_owned(),
        alias: "best".to_owned(),
        target,
        reason: "because".to_owned(),
        actor: "bob".to_owned(),
        ..Default::default()
    }
}

async fn list(
    rpc: &mut RegistryServiceClient<Channel>,
    filter: &str,
) -> Result<Vec<String>, Status> {
    let request = ListCheckpointsRequest {
        filter: filter.to_owned(),
        ..Default::default()
    };
    let page = rpc.list_checkpoints(request).await?.into_inner();
    Ok(page.checkpoints.into_iter().map(|c| c.digest).collect())
}

fn reason(status: &Status) -> String {
    status.get_details_error_info().expect("details").reason
}

#[tokio::test]
async fn an_alias_is_rolled_back_protected_and_removed_and_its_history_stays() {
    let registry = Registry::start().await;
    let client = registry.client().await;
    let mut rpc = registry.rpc().await;
    let one = push(&client, 301, Some("best")).await;
    let two = push(&client, 302, Some("best")).await;
    let back = rpc
        .update_alias(change(Some(Target::Previous(true))))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(back.digest, one);
    // Protected, it stays where it is, whoever moves it.
    let protect = UpdateAliasRequest {
        protect: Some(true),
        ..change(None)
    };
    assert!(
        rpc.update_alias(protect)
            .await
            .unwrap()
            .into_inner()
            .protected
    );
    let to_two = change(Some(Target::Digest(two.clone())));
    let status = rpc
        .update_alias(to_two.clone())
        .await
        .expect_err("protected");
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::FailedPrecondition, "ALIAS_PROTECTED")
    );
    let dir = checkpoint(303);
    let demo = request("demo", Some(("best", Expected::Any)));
    let error = client
        .push(dir.path(), &demo, |_, _| {})
        .await
        .expect_err("protected");
    assert_eq!(error.reason().as_deref(), Some("ALIAS_PROTECTED"));
    let forced = UpdateAliasRequest {
        force: true,
        ..to_two
    };
    let answer = rpc.update_alias(forced).await.unwrap().into_inner();
    assert_eq!(
        (answer.digest.as_str(), answer.protected),
        (two.as_str(), true)
    );
    let expected = UpdateAliasRequest {
        expected_digest: Some(one.clone()),
        force: true,
        ..change(Some(Target::Remove(true)))
    };
    let status = rpc
        .update_alias(expected.clone())
        .await
        .expect_err("is two");
    assert_eq!(status.code(), Code::Aborted);
    let removed = UpdateAliasRequest {
        expected_digest: Some(two.clone()),
        ..expected
    };
    assert_eq!(
        rpc.update_alias(removed).await.unwrap().into_inner().digest,
        ""
    );
    let status = client.get("demo:best").await.expect_err("removed");
    assert_eq!(status.code(), Some(Code::NotFound));
    let request = ListAliasHistoryRequest {
        name: "demo".to_owned(),
        alias: "best".to_owned(),
        ..Default::default()
    };
    let moves = client.alias_history(request).await.unwrap().moves;
    let moves: Vec<(u64, &str, &str, &str)> = moves
        .iter()
        .map(|m| {
            (
                m.sequence,
                m.from_digest.as_str(),
                m.to_digest.as_str(),
                m.actor.as_str(),
            )
        })
        .collect();
    let (one, two) = (one.as_str(), two.as_str());
    assert_eq!(
        moves,
        [
            (5, two, "", "bob"),
            (4, one, two, "bob"),
            (3, two, one, "bob"),
            (2, one, two, "ann"),
            (1, "", one, "ann"),
        ]
    );
}

#[tokio::test]
async fn an_alias_points_to_what_is_there_under_its_name() {
    let registry = Registry::start().await;
    let client = registry.client().await;
    let mut rpc = registry.rpc().await;
    let digest = push(&client, 311, None).await;
    let other = UpdateAliasRequest {
        name: "other".to_owned(),
        ..change(Some(Target::Digest(digest)))
    };
    let absent = change(Some(Target::Digest(
        espalier_registry::Digest::of(b"").to_string(),
    )));
    for request in [other, absent, change(Some(Target::Previous(true)))] {
        let status = rpc.update_alias(request).await.expect_err("refused");
        assert_eq!(status.code(), Code::NotFound, "{status}");
    }
    let status = rpc
        .update_alias(change(None))
        .await
        .expect_err("nothing asked");
    assert_eq!(status.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn checkpoints_are_found_by_card_and_label_and_deleted_when_nothing_keeps_them() {
    let registry = Registry::start().await;
    let client = registry.client().await;
    let mut rpc = registry.rpc().await;
    let (low, high) = (
        push(&client, 1, Some("best")).await,
        push(&client, 9, None).await,
    );
    let update = UpdateCheckpointRequest {
        reference: high.clone(),
        set_labels: [("team".to_owned(), "vision".to_owned())].into(),
        keep: Some(true),
        ..Default::default()
    };
    let updated = rpc
        .update_checkpoint(update)
        .await
        .unwrap()
        .into_inner()
        .checkpoint
        .unwrap();
    assert_eq!(
        (updated.labels["team"].as_str(), updated.keep),
        ("vision", true)
    );
    for (filter, expected) in [
        ("accuracy > 5", vec![&high]),
        ("label.team = vision", vec![&high]),
        ("not label.team = vision", vec![&low]),
        ("accuracy > 0 and name = demo", vec![&high, &low]),
        ("keep = true and accuracy < 5", vec![]),
    ] {
        let found = list(&mut rpc, filter).await.expect(filter);
        assert_eq!(found.iter().collect::<Vec<_>>(), expected, "{filter}");
    }
    let status = list(&mut rpc, "accuracy >").await.expect_err("no filter");
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(
        status.message().contains("filter: at character 11"),
        "{status}"
    );

    let delete = |reference: &str| DeleteCheckpointRequest {
        reference: reference.to_owned(),
    };
    for (reference, code) in [
        (low.as_str(), Code::FailedPrecondition),
        (high.as_str(), Code::FailedPrecondition),
        ("demo:best", Code::InvalidArgument),
    ] {
        let status = rpc
            .delete_checkpoint(delete(reference))
            .await
            .expect_err(reference);
        assert_eq!(status.code(), code, "{status}");
    }
    let update = UpdateCheckpointRequest {
        reference: high.clone(),
        keep: Some(false),
        ..Default::default()
    };
    rpc.update_checkpoint(update).await.unwrap();
    rpc.delete_checkpoint(delete(&high))
        .await
        .expect("nothing keeps it");
    assert_eq!(list(&mut rpc, "").await.unwrap(), [low]);
    let status = rpc
        .delete_checkpoint(delete(&high))
        .await
        .expect_err("gone");
    assert_eq!(status.code(), Code::NotFound);
    // Pushed again, it is there again.
    assert_eq!(push(&client, 9, None).await, high);
}

#[tokio::test]
async fn of_a_job_that_has_ended_the_last_training_checkpoint_stays() {
    let registry = Registry::start().await;
    let client = registry.client().await;
    let mut rpc = registry.rpc().await;
    let mut digests = Vec::new();
    for step in 1..=3 {
        let dir = checkpoint(400 + step);
        let request = PublishRequest {
            lineage: Lineage {
                job: Some("j1".to_owned()),
                step: Some(step),
                ..Lineage::default()
            },
            ..PublishRequest::new("job-j1", Kind::Training)
        };
        digests.push(
            client
                .push(dir.path(), &request, |_, _| {})
                .await
                .expect("pushes"),
        );
    }
    let model = push(&client, 404, None).await;
    let dry = CollectGarbageRequest { dry_run: true };
    let would = rpc.collect_garbage(dry).await.unwrap().into_inner();
    let run = CollectGarbageRequest { dry_run: false };
    let did = rpc.collect_garbage(run).await.unwrap().into_inner();
    assert_eq!(would.retired, did.retired);
    let mut retired: Vec<&str> = did.retired.iter().map(|r| r.digest.as_str()).collect();
    retired.sort_unstable();
    let mut expected = [digests[0].as_str(), digests[1].as_str()];
    expected.sort_unstable();
    assert_eq!(retired, expected);
    let all = ListCheckpointsRequest {
        include_training: true,
        ..Default::default()
    };
    let left = rpc
        .list_checkpoints(all)
        .await
        .unwrap()
        .into_inner()
        .checkpoints;
    let left: Vec<&str> = left.iter().map(|c| c.digest.as_str()).collect();
    assert_eq!(left, [model.as_str(), digests[2].as_str()]);
}

#[tokio::test]
async fn a_name_has_the_policy_it_was_given() {
    let registry = Registry::start().await;
    let mut rpc = registry.rpc().await;
    let get = |name: &str| GetRetentionRequest {
        name: name.to_owned(),
    };
    let default = rpc.get_retention(get("demo")).await.unwrap().into_inner();
    assert!(!default.own);
    let retention = Retention {
        models: 3,
        best: Some(BestBy {
            field: "accuracy.per_sample".to_owned(),
            count: 1,
            smallest: false,
        }),
        ..Default::default()
    };
    let set = SetRetentionRequest {
        name: "demo".to_owned(),
        retention: Some(retention.clone()),
    };
    rpc.set_retention(set).await.unwrap();
    let own = rpc.get_retention(get("demo")).await.unwrap().into_inner();
    assert_eq!((own.retention, own.own), (Some(retention), true));
    assert_eq!(
        rpc.get_retention(get(""))
            .await
            .unwrap()
            .into_inner()
            .retention,
        default.retention
    );
    let bad = SetRetentionRequest {
        name: "demo".to_owned(),
        retention: Some(Retention {
            best: Some(BestBy::default()),
            ..Default::default()
        }),
    };
    let status = rpc.set_retention(bad).await.expect_err("no field");
    assert!(status.message().starts_with("retention.best"), "{status}");
}

#[tokio::test]
async fn a_quota_is_kept_and_says_what_to_do() {
    let registry = Registry::with_quota(7 << 20).await;
    let client = registry.client().await;
    push(&client, 500, None).await;
    let dir = checkpoint(501);
    let error = client
        .push(dir.path(), &request("demo", None), |_, _| {})
        .await
        .expect_err("full");
    assert_eq!(error.code(), Some(Code::ResourceExhausted));
    assert_eq!(error.reason().as_deref(), Some("QUOTA"));
    assert!(
        error.to_string().contains("delete checkpoints or raise it"),
        "{error}"
    );
    let mut rpc = registry.rpc().await;
    let usage = rpc
        .get_usage(GetUsageRequest {})
        .await
        .unwrap()
        .into_inner();
    assert!(
        usage.stored_bytes <= usage.quota_bytes && usage.stored_bytes > 6 << 20,
        "{usage:?}"
    );
}

#[tokio::test]
async fn only_what_a_trusted_key_signed_is_pulled() {
    let registry = Registry::start().await;
    let client = registry.client().await;
    let dir = checkpoint(600);
    let keys = tempfile::tempdir().expect("tempdir");
    let [ann, bob] =
        ["ann", "bob"].map(|name| SecretKey::generate(&keys.path().join(name)).unwrap());
    let unsigned = request("demo", None);
    let digest = client
        .push(dir.path(), &unsigned, |_, _| {})
        .await
        .expect("pushes");
    let trusting = client.clone().trusting([ann.public()]);
    let target = keys.path().join("pulled");
    let error = trusting
        .pull(&digest, &target, |_, _| {})
        .await
        .expect_err("unsigned");
    assert!(matches!(error, ClientError::Untrusted { .. }), "{error}");
    assert!(error.to_string().contains("signed by nobody"), "{error}");
    for (key, trusted) in [(&bob, false), (&ann, true)] {
        let signed = PublishRequest {
            sign: Some(key.clone()),
            ..unsigned.clone()
        };
        // The same checkpoint, with one more signature.
        assert_eq!(
            client
                .push(dir.path(), &signed, |_, _| {})
                .await
                .expect("pushes"),
            digest
        );
        assert_eq!(
            trusting.pull(&digest, &target, |_, _| {}).await.is_ok(),
            trusted
        );
    }
    // A signature of another checkpoint is refused at once.
    let mut rpc = registry.rpc().await;
    let get = GetCheckpointRequest {
        reference: digest,
        ..Default::default()
    };
    let signatures = rpc
        .get_checkpoint(get)
        .await
        .unwrap()
        .into_inner()
        .signatures;
    assert_eq!(signatures.len(), 2);
    let other = checkpoint(601);
    let other = client
        .push(other.path(), &unsigned, |_, _| {})
        .await
        .expect("pushes");
    let manifest = client
        .get(&other)
        .await
        .expect("there")
        .manifest
        .to_bytes()
        .unwrap();
    let forged = PublishCheckpointRequest {
        request_id: "forged".to_owned(),
        name: "demo".to_owned(),
        manifest: manifest.into(),
        signatures,
        ..Default::default()
    };
    let status = rpc.publish_checkpoint(forged).await.expect_err("forged");
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().starts_with("signatures: [0]"), "{status}");
}
