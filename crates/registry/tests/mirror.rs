//! A mirror before a registry: what was asked for is there without it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;

use common::{Registry, assert_same, bytes, checkpoint, id, request, upload, write};
use espalier_auth::Access;
use espalier_proto::v1::registry_service_client::RegistryServiceClient;
use espalier_proto::v1::{
    DeleteCheckpointRequest, GetCheckpointRequest, GetUsageRequest, ReadChunksRequest,
    UpdateAliasRequest, update_alias_request::Target,
};
use espalier_registry::{
    Blobs, Client, ClientError, Digest, Expected, Mirror, MirrorOptions, MirrorService,
    PublishRequest, RegistryError, SecretKey,
};
use espalier_store::{Options, Store};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Channel, Server};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// A mirror served over gRPC.
struct Mirroring {
    dir: TempDir,
    endpoint: String,
    store: Store,
    server: JoinHandle<()>,
}

impl Mirroring {
    /// Asks each time.
    async fn of(upstream: &str) -> Self {
        Self::with(upstream, Duration::ZERO, None).await
    }

    async fn with(upstream: &str, fresh: Duration, quota: Option<u64>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self::on(dir, upstream, fresh, quota).await
    }

    async fn on(dir: TempDir, upstream: &str, fresh: Duration, quota: Option<u64>) -> Self {
        let store = Store::open(dir.path().join("state.redb"), Options::default()).await;
        let store = store.unwrap();
        let service = open(dir.path(), &store, upstream, fresh, quota)
            .await
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let server = Server::builder()
            .add_service(service.into_server())
            .serve_with_incoming(TcpListenerStream::new(listener));
        let server = tokio::spawn(async move { server.await.unwrap() });
        Self {
            dir,
            endpoint,
            store,
            server,
        }
    }

    /// Starts it again on what it kept.
    async fn restart(self, upstream: &str) -> Self {
        self.server.abort();
        let _ = self.server.await;
        self.store.close().await;
        Self::on(self.dir, upstream, Duration::ZERO, None).await
    }

    async fn client(&self) -> Client {
        Client::connect(&self.endpoint).await.unwrap()
    }

    async fn rpc(&self) -> RegistryServiceClient<Channel> {
        let connected = RegistryServiceClient::connect(self.endpoint.clone()).await;
        let most = espalier_proto::MAX_REGISTRY_MESSAGE;
        connected.unwrap().max_decoding_message_size(most)
    }

    async fn kept(&self) -> u64 {
        let usage = self.rpc().await.get_usage(GetUsageRequest {}).await;
        usage.unwrap().into_inner().stored_bytes
    }

    fn chunk_path(&self, digest: Digest) -> PathBuf {
        let hex = digest.hex();
        let shard = self.dir.path().join("blobs/chunks").join(&hex[..1]);
        shard.join(hex)
    }
}

async fn open(
    dir: &Path,
    store: &Store,
    upstream: &str,
    fresh: Duration,
    quota: Option<u64>,
) -> Result<MirrorService, RegistryError> {
    let blobs = Blobs::with_quota(dir.join("blobs"), quota).await?;
    let options = MirrorOptions {
        upstream: upstream.split(',').map(str::to_owned).collect(),
        access: Access::default(),
        fresh,
    };
    MirrorService::open(blobs, store.campaign("mirror").await?, &options).await
}

fn best() -> PublishRequest {
    request("demo", Some(("best", Expected::Any)))
}

async fn push(registry: &Registry, dir: &Path, request: &PublishRequest) -> String {
    let client = registry.client().await;
    let push = client.push(dir, request, |_, _| {});
    push.await.expect("pushes")
}

/// Pulls into a folder of its own; says how stale the answer was.
async fn pull(client: &Client, reference: &str, like: &Path) -> Result<u64, ClientError> {
    let out = tempfile::tempdir().unwrap();
    let target = out.path().join("c");
    let pulled = client.pull(reference, &target, |_, _| {}).await?;
    assert_same(like, &target, &pulled.manifest);
    Ok(pulled.stale_s)
}

/// Asks once, where a client would try again.
async fn lookup(mirror: &Mirroring, reference: &str) -> Result<(), Status> {
    let request = GetCheckpointRequest {
        reference: reference.to_owned(),
        lease: String::new(),
    };
    mirror.rpc().await.get_checkpoint(request).await.map(drop)
}

#[tokio::test]
async fn what_was_pulled_once_is_pulled_without_upstream() {
    let upstream = Registry::start().await;
    let dir = checkpoint(41);
    let digest = push(&upstream, dir.path(), &best()).await;
    let mirror = Mirroring::of(&upstream.endpoint).await;
    let client = mirror.client().await;
    assert_eq!(pull(&client, "demo:best", dir.path()).await.unwrap(), 0);
    let reads = upstream.reads.load(Ordering::Relaxed);
    assert!(reads > 0);
    for reference in ["demo:best", &digest, &format!("demo@{digest}")] {
        assert_eq!(pull(&client, reference, dir.path()).await.unwrap(), 0);
    }
    assert_eq!(upstream.reads.load(Ordering::Relaxed), reads);

    let (_kept, _) = upstream.stop().await;
    for reference in ["demo:best", &digest, &format!("demo@{digest}")] {
        assert!(pull(&client, reference, dir.path()).await.unwrap() > 0);
    }
    // Also after a restart, at which upstream is away.
    let mirror = mirror.restart("http://127.0.0.1:1").await;
    let client = mirror.client().await;
    assert!(pull(&client, "demo:best", dir.path()).await.unwrap() > 0);
    let listed = client.list(Default::default()).await.unwrap();
    assert!(listed.stale_s > 0);
    assert_eq!(listed.checkpoints.len(), 1);
    assert_eq!(listed.checkpoints[0].digest, digest);

    let status = lookup(&mirror, "demo:other").await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("http://127.0.0.1:1"), "{status}");
    assert_eq!(
        status.get_details_error_info().unwrap().reason,
        "UPSTREAM_UNREACHABLE"
    );
}

#[tokio::test]
async fn an_alias_that_moves_is_followed_and_one_that_goes_is_gone() {
    let upstream = Registry::start().await;
    let (one, two) = (checkpoint(42), checkpoint(43));
    let first = push(&upstream, one.path(), &best()).await;
    let asking = Mirroring::of(&upstream.endpoint).await;
    let patient = Mirroring::with(&upstream.endpoint, Duration::from_secs(3600), None).await;
    for mirror in [&asking, &patient] {
        let client = mirror.client().await;
        pull(&client, "demo:best", one.path()).await.unwrap();
    }
    push(&upstream, two.path(), &best()).await;
    let client = asking.client().await;
    pull(&client, "demo:best", two.path()).await.unwrap();
    // Within its time, and with all chunks here, upstream is not asked.
    let client = patient.client().await;
    pull(&client, "demo:best", one.path()).await.unwrap();

    let mut rpc = upstream.rpc().await;
    let remove = UpdateAliasRequest {
        name: "demo".to_owned(),
        alias: "best".to_owned(),
        target: Some(Target::Remove(true)),
        ..Default::default()
    };
    rpc.update_alias(remove).await.unwrap();
    let delete = DeleteCheckpointRequest {
        reference: first.clone(),
    };
    rpc.delete_checkpoint(delete).await.unwrap();
    let client = asking.client().await;
    for reference in ["demo:best", &first] {
        let error = pull(&client, reference, one.path()).await.unwrap_err();
        assert_eq!(error.code(), Some(Code::NotFound), "{error}");
    }
    // And is not remembered when upstream is away.
    drop(rpc);
    let _kept = upstream.stop().await;
    for reference in ["demo:best", &first] {
        let error = lookup(&asking, reference).await.unwrap_err();
        assert_eq!(error.code(), Code::Unavailable);
    }
}

#[tokio::test]
async fn those_who_ask_for_the_same_chunk_share_a_fetch() {
    let upstream = Registry::start().await;
    let data = bytes(44, 3 << 20);
    upload(&upstream, &data).await;
    let mirror = Mirroring::of(&upstream.endpoint).await;
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..12 {
        let mut rpc = mirror.rpc().await;
        let chunks = vec![id(&data)];
        asking.spawn(async move {
            let request = ReadChunksRequest {
                chunks,
                ..Default::default()
            };
            rpc.read_chunks(request).await.unwrap().into_inner()
        });
    }
    for answer in asking.join_all().await {
        assert!(answer.chunks[0].data == data);
    }
    assert_eq!(upstream.reads.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn what_was_used_least_recently_makes_room() {
    let upstream = Registry::start().await;
    let chunks: Vec<Vec<u8>> = (0..6).map(|seed| bytes(50 + seed, 1 << 20)).collect();
    for chunk in &chunks {
        upload(&upstream, chunk).await;
    }
    // Room for four.
    let limit = 4 * ((1 << 20) + 12);
    let mirror = Mirroring::with(&upstream.endpoint, Duration::ZERO, Some(limit)).await;
    let mut rpc = mirror.rpc().await;
    let mut read = async |number: usize| {
        let request = ReadChunksRequest {
            chunks: vec![id(&chunks[number])],
            ..Default::default()
        };
        let before = upstream.reads.load(Ordering::Relaxed);
        let answer = rpc.read_chunks(request).await.unwrap().into_inner();
        assert!(answer.chunks[0].data == chunks[number]);
        assert!(mirror.kept().await <= limit);
        upstream.reads.load(Ordering::Relaxed) > before
    };
    for number in 0..4 {
        assert!(read(number).await, "{number} was here");
    }
    assert!(!read(0).await, "it was used again");
    assert!(read(4).await);
    assert!(read(5).await);
    for (number, fetched) in [(0, false), (3, false), (1, true), (2, true)] {
        assert_eq!(read(number).await, fetched, "{number}");
    }
    // What has no room at all is passed on.
    drop(rpc);
    let tiny = Mirroring::with(&upstream.endpoint, Duration::ZERO, Some(1000)).await;
    let request = ReadChunksRequest {
        chunks: chunks[..2].iter().map(|chunk| id(chunk)).collect(),
        ..Default::default()
    };
    let answer = tiny.rpc().await.read_chunks(request).await.unwrap();
    assert_eq!(answer.into_inner().chunks.len(), 2);
    assert_eq!(tiny.kept().await, 0);
}

#[tokio::test]
async fn damage_on_either_side_is_not_passed_on() {
    let upstream = Registry::start().await;
    let dir = checkpoint(45);
    let digest = push(&upstream, dir.path(), &best()).await;
    let mirror = Mirroring::of(&upstream.endpoint).await;
    let client = mirror.client().await;
    let report = Digest::of(br#"{"accuracy":{"shared":0.1}}"#);
    let flip = |mut bytes: Vec<u8>| {
        *bytes.last_mut().unwrap() ^= 1;
        Some(bytes)
    };
    upstream.damage(report, flip);
    let error = pull(&client, &digest, dir.path()).await.unwrap_err();
    // Upstream puts it aside when it is asked to look.
    assert!(
        matches!(error.code(), Some(Code::DataLoss | Code::NotFound)),
        "{error}"
    );
    assert!(error.to_string().contains(&report.to_string()), "{error}");
    push(&upstream, dir.path(), &best()).await;
    pull(&client, &digest, dir.path()).await.unwrap();

    // The mirror's own is fetched again before anybody sees it.
    let path = mirror.chunk_path(report);
    let good = std::fs::read(&path).unwrap();
    std::fs::write(&path, flip(good.clone()).unwrap()).unwrap();
    pull(&client, &digest, dir.path()).await.unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), good);
    // And named by whoever looks.
    std::fs::write(&path, &good[..good.len() - 1]).unwrap();
    let faults = client.fsck(None, |_, _| {}).await.unwrap();
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert_eq!(faults[0].digest, report);
    assert_eq!(client.fsck(None, |_, _| {}).await.unwrap(), []);
    pull(&client, &digest, dir.path()).await.unwrap();
}

#[tokio::test]
async fn a_registry_is_mended_from_its_own_mirror() {
    let upstream = Registry::start().await;
    let dir = checkpoint(46);
    let digest = push(&upstream, dir.path(), &best()).await;
    let mirror = Mirroring::of(&upstream.endpoint).await;
    let through = mirror.client().await;
    pull(&through, &digest, dir.path()).await.unwrap();
    let other = tempfile::tempdir().unwrap();
    write(other.path(), "notes.md", b"never asked for");
    push(&upstream, other.path(), &request("other", None)).await;
    let (kept, lost) = (
        Digest::of(br#"{"accuracy":{"shared":0.1}}"#),
        Digest::of(b"never asked for"),
    );
    for digest in [kept, lost] {
        upstream.damage(digest, |_| None);
    }
    let client = upstream.client().await;
    let source = Mirror::Registry(Box::new(through));
    let faults = client.fsck(Some(&source), |_, _| {}).await.unwrap();
    let mut told: Vec<(Digest, bool)> = faults.iter().map(|f| (f.digest, f.repaired)).collect();
    let mut expected = [(kept, true), (lost, false)];
    told.sort_unstable();
    expected.sort_unstable();
    assert_eq!(told, expected);
    pull(&client, &digest, dir.path()).await.unwrap();
}

#[tokio::test]
async fn writes_are_pointed_upstream() {
    let upstream = Registry::start().await;
    let dir = checkpoint(47);
    let mirror = Mirroring::of(&upstream.endpoint).await;
    let client = mirror.client().await;
    let pushed = client.push(dir.path(), &best(), |_, _| {}).await;
    let error = pushed.unwrap_err();
    assert_eq!(error.code(), Some(Code::FailedPrecondition), "{error}");
    assert_eq!(error.reason().as_deref(), Some("READ_ONLY_MIRROR"));
    assert!(error.to_string().contains(&upstream.endpoint), "{error}");
}

#[tokio::test]
async fn signatures_pass_through_unchanged() {
    let upstream = Registry::start().await;
    let dir = checkpoint(48);
    let keys = tempfile::tempdir().unwrap();
    let [signer, other] = ["a", "b"].map(|n| SecretKey::generate(&keys.path().join(n)).unwrap());
    let signed = PublishRequest {
        sign: Some(signer.clone()),
        ..best()
    };
    push(&upstream, dir.path(), &signed).await;
    let mirror = Mirroring::of(&upstream.endpoint).await;
    let check = async |away: bool| {
        let trusting = mirror.client().await.trusting([signer.public()]);
        let stale_s = pull(&trusting, "demo:best", dir.path()).await.unwrap();
        assert_eq!(stale_s > 0, away);
        let distrusting = mirror.client().await.trusting([other.public()]);
        let pulled = pull(&distrusting, "demo:best", dir.path()).await;
        let error = pulled.unwrap_err();
        assert!(matches!(error, ClientError::Untrusted { .. }), "{error}");
    };
    check(false).await;
    let _kept = upstream.stop().await;
    check(true).await;
}

#[tokio::test]
async fn mirrors_are_one_hop_and_have_folders_of_their_own() {
    let upstream = Registry::start().await;
    let dir = checkpoint(49);
    push(&upstream, dir.path(), &best()).await;
    let mirror = Mirroring::of(&upstream.endpoint).await;
    let second = Mirroring::of(&mirror.endpoint).await;
    let client = second.client().await;
    let error = pull(&client, "demo:best", dir.path()).await.unwrap_err();
    assert!(error.to_string().contains("mirror itself"), "{error}");

    let (kept, _) = upstream.stop().await;
    let store = Store::open(kept.path().join("state.redb"), Options::default()).await;
    let store = store.unwrap();
    let refused = open(
        kept.path(),
        &store,
        "http://127.0.0.1:1",
        Duration::ZERO,
        None,
    )
    .await;
    let error = refused.err().unwrap().to_string();
    assert!(error.contains("folder of its own"), "{error}");
    store.close().await;
}

#[tokio::test]
async fn another_endpoint_of_the_registry_is_asked_when_one_fails() {
    let upstream = Registry::start().await;
    let dir = checkpoint(40);
    push(&upstream, dir.path(), &best()).await;
    let both = format!("http://127.0.0.1:1,{}", upstream.endpoint);
    let mirror = Mirroring::of(&both).await;
    let client = mirror.client().await;
    assert_eq!(pull(&client, "demo:best", dir.path()).await.unwrap(), 0);
}
