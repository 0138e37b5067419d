//! Publishing: one transaction, conditional, idempotent, recorded.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use common::{Registry, checkpoint, request, upload};
use espalier_proto::v1::{
    GetCheckpointRequest, ListAliasHistoryRequest, ListCheckpointsRequest,
    PublishCheckpointRequest, StepCommit,
};
use espalier_registry::{
    ChunkId, Digest, Expected, FileEntry, HookPlan, Kind, Lineage, Manifest, PublishHook,
    PublishRequest,
};
use espalier_store::{Compare, Op, Store};
use tonic::{Code, Status, async_trait};
use tonic_types::StatusExt as _;

/// A manifest of one small file.
fn manifest(name: &str, kind: Kind, data: &[u8], lineage: Lineage) -> Vec<u8> {
    let file = FileEntry {
        path: "weights".to_owned(),
        size: data.len() as u64,
        media_type: "application/octet-stream".to_owned(),
        chunks: vec![ChunkId::of(data)],
    };
    let manifest = Manifest::new(kind, name, vec![file], lineage, None).expect("valid");
    manifest.to_bytes().expect("json")
}

fn publish(request_id: &str, name: &str, manifest: Vec<u8>) -> PublishCheckpointRequest {
    PublishCheckpointRequest {
        request_id: request_id.to_owned(),
        name: name.to_owned(),
        manifest: manifest.into(),
        ..PublishCheckpointRequest::default()
    }
}

#[tokio::test]
async fn a_manifest_whose_chunks_are_missing_is_refused() {
    let registry = Registry::start().await;
    let mut rpc = registry.rpc().await;
    let bytes = manifest("demo", Kind::Model, b"absent", Lineage::default());
    let status = rpc
        .publish_checkpoint(publish("1", "demo", bytes))
        .await
        .expect_err("missing");
    assert_eq!(status.code(), Code::FailedPrecondition);
    let failure = status.get_details_precondition_failure().expect("details");
    assert_eq!(failure.violations.len(), 1);
    assert_eq!(
        failure.violations[0].subject,
        Digest::of(b"absent").to_string()
    );
    let page = rpc
        .list_checkpoints(ListCheckpointsRequest::default())
        .await
        .unwrap();
    assert!(page.into_inner().checkpoints.is_empty());
}

#[tokio::test]
async fn requests_that_make_no_sense_name_the_field() {
    let registry = Registry::start().await;
    upload(&registry, b"data").await;
    let mut rpc = registry.rpc().await;
    let good = || manifest("demo", Kind::Model, b"data", Lineage::default());
    let edited = |from: &str, to: &str| {
        let text = String::from_utf8(good()).unwrap();
        assert!(text.contains(from));
        text.replacen(from, to, 1).into_bytes()
    };
    let with = |edit: &dyn Fn(&mut PublishCheckpointRequest)| {
        let mut request = publish("1", "demo", good());
        edit(&mut request);
        request
    };
    let huge = vec![b' '; (1 << 20) + 1];
    let table = [
        ("request_id", publish("", "demo", good())),
        ("request_id", publish("a/b", "demo", good())),
        ("name", publish("1", "", good())),
        ("name", publish("1", "../x", good())),
        ("manifest.name", publish("1", "other", good())),
        ("manifest", publish("1", "demo", Vec::new())),
        ("manifest", publish("1", "demo", b"{}".to_vec())),
        ("manifest", publish("1", "demo", huge)),
        (
            "manifest",
            publish("1", "demo", edited("\"espalier\":2", "\"espalier\":1")),
        ),
        ("manifest", publish("1", "demo", edited("{", "{ "))),
        (
            "manifest.files[0].path",
            publish("1", "demo", edited("weights", "../weights")),
        ),
        (
            "manifest.files[0].path",
            publish("1", "demo", edited("weights", "/weights")),
        ),
        ("alias", with(&|r| r.alias = "a/b".to_owned())),
        (
            "expected_alias_digest",
            with(&|r| r.expected_alias_digest = Some(String::new())),
        ),
        (
            "expected_alias_digest",
            with(&|r| {
                r.alias = "best".to_owned();
                r.expected_alias_digest = Some("sha256:0".to_owned());
            }),
        ),
        ("reason", with(&|r| r.reason = "x".repeat(1025))),
        (
            "commit.job_id",
            with(&|r| r.commit = Some(StepCommit::default())),
        ),
    ];
    for (field, request) in table {
        let status = rpc.publish_checkpoint(request).await.expect_err(field);
        assert_eq!(status.code(), Code::InvalidArgument, "{field}: {status}");
        let violations = status
            .get_details_bad_request()
            .expect("details")
            .field_violations;
        assert_eq!(violations[0].field, field, "{status}");
    }
    for reference in ["", "Demo", "demo:", "sha256:0", "demo@x"] {
        let request = GetCheckpointRequest {
            reference: reference.to_owned(),
            ..Default::default()
        };
        let status = rpc.get_checkpoint(request).await.expect_err(reference);
        assert_eq!(status.code(), Code::InvalidArgument, "{reference}");
    }
    let request = GetCheckpointRequest {
        reference: "demo".to_owned(),
        ..Default::default()
    };
    let status = rpc.get_checkpoint(request).await.expect_err("unknown");
    assert_eq!(status.code(), Code::NotFound);
    assert_eq!(status.message(), "checkpoint `demo` does not exist");
}

#[tokio::test]
async fn of_many_that_make_an_alias_one_wins() {
    let registry = Registry::start().await;
    let mut pushes = tokio::task::JoinSet::new();
    for seed in 0..6 {
        let client = registry.client().await;
        pushes.spawn(async move {
            let dir = checkpoint(100 + seed);
            client
                .push(
                    dir.path(),
                    &request("demo", Some(("best", Expected::Absent))),
                    |_, _| {},
                )
                .await
        });
    }
    let results = pushes.join_all().await;
    let mut winners = Vec::new();
    for result in results {
        match result {
            Ok(digest) => winners.push(digest),
            Err(error) => {
                assert_eq!(error.code(), Some(Code::Aborted), "{error}");
                assert_eq!(error.reason().as_deref(), Some("ALIAS_MOVED"));
            }
        }
    }
    assert_eq!(winners.len(), 1);
    let client = registry.client().await;
    assert_eq!(
        client.get("demo:best").await.expect("there").digest,
        winners[0]
    );
    // Those that lost published nothing.
    let page = client.list(Default::default()).await.expect("lists");
    assert_eq!(page.checkpoints.len(), 1);
}

#[tokio::test]
async fn an_alias_moves_when_it_is_as_expected_and_remembers() {
    let registry = Registry::start().await;
    let client = registry.client().await;
    let mut digests = Vec::new();
    for seed in 0..3 {
        let dir = checkpoint(200 + seed);
        let expected = digests.last().map_or(Expected::Absent, |d: &String| {
            Expected::Digest(d.parse().unwrap())
        });
        let request = request("demo", Some(("best", expected)));
        digests.push(
            client
                .push(dir.path(), &request, |_, _| {})
                .await
                .expect("pushes"),
        );
    }
    let dir = checkpoint(203);
    let stale = request(
        "demo",
        Some(("best", Expected::Digest(digests[0].parse().unwrap()))),
    );
    let error = client
        .push(dir.path(), &stale, |_, _| {})
        .await
        .expect_err("stale");
    assert_eq!(error.code(), Some(Code::Aborted));
    assert!(error.to_string().contains(&digests[2]), "{error}");
    // To where it is already is no move.
    let dir = checkpoint(202);
    let again = request("demo", Some(("best", Expected::Any)));
    client
        .push(dir.path(), &again, |_, _| {})
        .await
        .expect("pushes");

    let mut moves = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListAliasHistoryRequest {
            name: "demo".to_owned(),
            alias: "best".to_owned(),
            page_size: 2,
            page_token,
        };
        let page = client.alias_history(request).await.expect("lists");
        moves.extend(page.moves);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    let found: Vec<(u64, &str, &str)> = moves
        .iter()
        .map(|m| (m.sequence, m.from_digest.as_str(), m.to_digest.as_str()))
        .collect();
    assert_eq!(
        found,
        [
            (3, digests[1].as_str(), digests[2].as_str()),
            (2, digests[0].as_str(), digests[1].as_str()),
            (1, "", digests[0].as_str()),
        ]
    );
    assert!(moves.iter().all(|m| m.reason == "test" && m.time.is_some()));
}

#[tokio::test]
async fn a_repeat_is_answered_alike_and_another_request_with_its_id_is_refused() {
    let registry = Registry::start().await;
    upload(&registry, b"one").await;
    upload(&registry, b"two").await;
    let mut rpc = registry.rpc().await;
    let mut one = publish(
        "same",
        "demo",
        manifest("demo", Kind::Model, b"one", Lineage::default()),
    );
    one.alias = "best".to_owned();
    one.expected_alias_digest = Some(String::new());
    let first = rpc
        .publish_checkpoint(one.clone())
        .await
        .expect("publishes")
        .into_inner();
    let mut two = publish(
        "two",
        "demo",
        manifest("demo", Kind::Model, b"two", Lineage::default()),
    );
    two.alias = "best".to_owned();
    rpc.publish_checkpoint(two.clone())
        .await
        .expect("publishes");
    // The alias is no longer as the first expected, yet its answer stands, also after a restart.
    let registry = registry.restart().await;
    let mut rpc = registry.rpc().await;
    let again = rpc
        .publish_checkpoint(one)
        .await
        .expect("answers")
        .into_inner();
    assert_eq!(first, again);
    two.request_id = "same".to_owned();
    let status = rpc.publish_checkpoint(two).await.expect_err("another");
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(
        status.get_details_bad_request().unwrap().field_violations[0].field,
        "request_id"
    );
}

#[tokio::test]
async fn lists_are_in_pages_newest_first_without_training() {
    let registry = Registry::start().await;
    let mut rpc = registry.rpc().await;
    let mut expected = Vec::new();
    for i in 0..10_u8 {
        upload(&registry, &[i]).await;
        let (name, kind) = if i % 3 == 2 {
            ("job-1", Kind::Training)
        } else {
            ("demo", Kind::Model)
        };
        let bytes = manifest(name, kind, &[i], Lineage::default());
        let answer = rpc
            .publish_checkpoint(publish(&i.to_string(), name, bytes))
            .await;
        expected.insert(0, (kind, answer.expect("publishes").into_inner().digest));
    }
    for (training, name) in [(false, ""), (true, ""), (true, "job-1"), (false, "demo")] {
        let mut found = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = ListCheckpointsRequest {
                page_size: 2,
                page_token,
                name: name.to_owned(),
                include_training: training,
                ..Default::default()
            };
            let page = rpc
                .list_checkpoints(request)
                .await
                .expect("lists")
                .into_inner();
            assert!(page.checkpoints.len() <= 2);
            found.extend(page.checkpoints.into_iter().map(|c| c.digest));
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        let wanted: Vec<String> = expected
            .iter()
            .filter(|(kind, _)| match name {
                "job-1" => *kind == Kind::Training,
                "demo" => *kind == Kind::Model,
                _ => training || *kind == Kind::Model,
            })
            .map(|(_, digest)| digest.clone())
            .collect();
        assert_eq!(found, wanted, "{training} {name}");
    }
}

/// A ledger that counts the steps of one job in the store, and loses its first races.
struct Ledger {
    store: std::sync::OnceLock<Store>,
    races: AtomicU64,
    woken: Arc<AtomicU64>,
}

const LEDGER: &str = "ledger/j1";

#[async_trait]
impl PublishHook for Ledger {
    async fn prepare(&self, commit: &StepCommit, _: &str, _: &str) -> Result<HookPlan, Status> {
        if commit.generation != 5 {
            return Err(Status::aborted("generation: not the current one"));
        }
        let store = self.store.get().expect("set");
        let entry = store.get(LEDGER).await.expect("reads");
        let compare = if self.races.fetch_sub(1, Ordering::SeqCst) > 1 {
            Compare::Exists("nothing/such".to_owned())
        } else {
            Compare::unchanged(LEDGER, entry.as_ref())
        };
        Ok(HookPlan {
            compares: vec![compare],
            ops: vec![Op::put(LEDGER, commit.step.to_string())],
            wake: Some(Box::new({
                let woken = Arc::clone(&self.woken);
                move |revision| woken.store(revision.0, Ordering::SeqCst)
            })),
        })
    }

    async fn has_ended(&self, _: &str) -> Result<bool, Status> {
        Ok(false)
    }
}

#[tokio::test]
async fn the_jobs_ledger_moves_with_the_checkpoint_or_not_at_all() {
    let ledger = Arc::new(Ledger {
        store: std::sync::OnceLock::new(),
        races: AtomicU64::new(4),
        woken: Arc::default(),
    });
    let registry = Registry::with_hook(ledger.clone()).await;
    let _ = ledger.store.set(registry.store.clone());
    let client = registry.client().await;
    let commit = |generation, step| StepCommit {
        job_id: "j1".to_owned(),
        generation,
        step,
        r#final: false,
    };
    let request = |generation, step| PublishRequest {
        commit: Some(commit(generation, step)),
        ..PublishRequest::new("job-j1", Kind::Training)
    };
    let dir = checkpoint(9);
    client
        .push(dir.path(), &request(5, 50), |_, _| {})
        .await
        .expect("after three lost races");
    let entry = registry.store.get(LEDGER).await.unwrap().expect("there");
    assert_eq!(entry.value, b"50");
    let woken = ledger.woken.load(Ordering::SeqCst);
    assert_eq!(woken, entry.mod_revision.0);
    let page = ListCheckpointsRequest {
        include_training: true,
        ..Default::default()
    };
    let listed = client.list(page.clone()).await.unwrap().checkpoints;
    assert_eq!((listed[0].job_id.as_str(), listed[0].step), ("j1", 50));

    let error = client
        .push(dir.path(), &request(4, 60), |_, _| {})
        .await
        .expect_err("stale");
    assert_eq!(error.code(), Some(Code::Aborted));
    assert_eq!(registry.store.get(LEDGER).await.unwrap(), Some(entry));
    assert_eq!(client.list(page).await.unwrap().checkpoints.len(), 1);
    assert_eq!(ledger.woken.load(Ordering::SeqCst), woken);
}

#[tokio::test]
async fn a_registry_without_jobs_refuses_their_commits() {
    let registry = Registry::start().await;
    let request = PublishRequest {
        commit: Some(StepCommit {
            job_id: "j1".to_owned(),
            ..StepCommit::default()
        }),
        ..PublishRequest::new("job-j1", Kind::Training)
    };
    let dir = checkpoint(10);
    let error = registry
        .client()
        .await
        .push(dir.path(), &request, |_, _| {})
        .await;
    assert_eq!(
        error.expect_err("refused").code(),
        Some(Code::FailedPrecondition)
    );
}
