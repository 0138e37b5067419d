//! A registry served over gRPC on a port of its own.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used)]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use espalier_proto::v1::registry_service_client::RegistryServiceClient;
use espalier_proto::v1::{Chunk, FindMissingChunksRequest, WriteChunksRequest};
use espalier_registry::{
    Alias, Blobs, Bucket, ChunkId, Client, Digest, Expected, Kind, Manifest, NoJobs,
    Options as Periods, Patience, PublishHook, PublishRequest, RegistryService, SystemClock,
};
use espalier_store::{Op, Options, Store, Txn};
use espalier_tests::S3;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::codegen::{Context, Poll, Service, http};
use tonic::server::NamedService;
use tonic::transport::{Channel, Server};

pub(crate) struct Registry {
    pub(crate) dir: TempDir,
    pub(crate) endpoint: String,
    pub(crate) store: Store,
    /// Calls that read chunks.
    pub(crate) reads: Arc<AtomicU64>,
    place: Place,
    service: RegistryService,
    stop: oneshot::Sender<()>,
    server: JoinHandle<()>,
}

/// Where the chunks of a registry lie.
#[derive(Clone, Copy)]
pub(crate) enum Place {
    Folder,
    Bucket(&'static S3, &'static str),
}

impl Place {
    /// A new one of each kind that there is here.
    pub(crate) fn each() -> Vec<Self> {
        let bucket = S3::shared().map(|s3| Self::Bucket(s3, s3.bucket().leak()));
        [Self::Folder].into_iter().chain(bucket).collect()
    }

    async fn open(self, dir: &Path, quota: Option<u64>) -> Blobs {
        let opened = match self {
            Self::Folder => Blobs::with_quota(dir.join("blobs"), quota).await,
            Self::Bucket(s3, bucket) => {
                let url = format!("s3://{bucket}/prefix");
                let bucket = Bucket::open(&url, s3.settings(), Patience::default()).await;
                Blobs::in_bucket(bucket.expect("bucket"), quota).await
            }
        };
        opened.expect("blobs")
    }
}

impl Registry {
    pub(crate) async fn start() -> Self {
        Self::with_hook(Arc::new(NoJobs)).await
    }

    pub(crate) async fn with_hook(hook: Arc<dyn PublishHook>) -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        Self::on(dir, Place::Folder, hook, None, Periods::default()).await
    }

    pub(crate) async fn with_quota(quota: u64) -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        let periods = Periods::default();
        Self::on(dir, Place::Folder, Arc::new(NoJobs), Some(quota), periods).await
    }

    pub(crate) async fn at(place: Place) -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        Self::plain(dir, place).await
    }

    /// One that pins nothing without a lease and removes garbage when a second collection finds it.
    pub(crate) async fn without_grace(place: Place) -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        let periods = Periods {
            lease_ttl: Duration::ZERO,
            grace: Duration::ZERO,
            ..Periods::default()
        };
        Self::on(dir, place, Arc::new(NoJobs), None, periods).await
    }

    async fn plain(dir: TempDir, place: Place) -> Self {
        Self::on(dir, place, Arc::new(NoJobs), None, Periods::default()).await
    }

    async fn on(
        dir: TempDir,
        place: Place,
        hook: Arc<dyn PublishHook>,
        quota: Option<u64>,
        periods: Periods,
    ) -> Self {
        let store = Store::open(dir.path().join("state.redb"), Options::default())
            .await
            .expect("store");
        let blobs = place.open(dir.path(), quota).await;
        let leader = store.campaign("test").await.expect("leader");
        let clock = Arc::new(SystemClock::default());
        let service = RegistryService::with(blobs, leader, hook, periods, clock);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let endpoint = format!("http://{}", listener.local_addr().expect("bound"));
        let (stop, stopped) = oneshot::channel::<()>();
        let reads = Arc::new(AtomicU64::new(0));
        let counted = Counted {
            inner: service.clone().into_server(),
            reads: Arc::clone(&reads),
        };
        let server = Server::builder()
            .add_service(counted)
            .serve_with_incoming_shutdown(TcpListenerStream::new(listener), async {
                let _ = stopped.await;
            });
        let server = tokio::spawn(async move { server.await.expect("serves") });
        Self {
            dir,
            endpoint,
            store,
            reads,
            place,
            service,
            stop,
            server,
        }
    }

    /// Stops the registry and starts it again on the same folder.
    pub(crate) async fn restart(self) -> Self {
        let (dir, place) = self.stop().await;
        Self::plain(dir, place).await
    }

    /// Restarts the registry, after a change of its records that is none of its own.
    pub(crate) async fn tampered(self, change: Op) -> Self {
        let (dir, place) = self.stop().await;
        let path = dir.path().join("state.redb");
        let store = Store::open(path, Options::default()).await.expect("store");
        let leader = store.campaign("test").await.expect("leader");
        let mut txn = Txn::new();
        txn.ops.push(change);
        leader.commit(txn).await.expect("commits");
        store.close().await;
        Self::plain(dir, place).await
    }

    /// Stops the registry; what it stored is left.
    pub(crate) async fn stop(self) -> (TempDir, Place) {
        let _ = self.stop.send(());
        self.server.abort();
        let _ = self.server.await;
        self.service.drain().await;
        self.store.close().await;
        (self.dir, self.place)
    }

    /// The bytes in which a chunk lies; none takes them away.
    pub(crate) fn damage(&self, digest: Digest, edit: impl FnOnce(Vec<u8>) -> Option<Vec<u8>>) {
        let hex = digest.hex();
        match self.place {
            Place::Folder => {
                let path = self.chunk_path(digest);
                match edit(std::fs::read(&path).expect("is there")) {
                    Some(bytes) => std::fs::write(&path, bytes).expect("writes"),
                    None => std::fs::remove_file(&path).expect("removes"),
                }
            }
            Place::Bucket(s3, bucket) => {
                let path = format!("{bucket}/prefix/chunks/{}/{hex}", &hex[..1]);
                match edit(s3.get(&path)) {
                    Some(bytes) => s3.put(&path, &bytes),
                    None => s3.delete(&path),
                }
            }
        }
    }

    pub(crate) async fn client(&self) -> Client {
        Client::connect(&self.endpoint).await.expect("connects")
    }

    pub(crate) async fn rpc(&self) -> RegistryServiceClient<Channel> {
        RegistryServiceClient::connect(self.endpoint.clone())
            .await
            .expect("connects")
            .max_decoding_message_size(espalier_proto::MAX_REGISTRY_MESSAGE)
            .max_encoding_message_size(espalier_proto::MAX_REGISTRY_MESSAGE)
    }

    pub(crate) fn chunk_path(&self, digest: Digest) -> PathBuf {
        let hex = digest.hex();
        let shard = self.dir.path().join("blobs/chunks").join(&hex[..1]);
        shard.join(hex)
    }
}

/// The service, with a count of the calls that read chunks.
#[derive(Clone)]
struct Counted<S> {
    inner: S,
    reads: Arc<AtomicU64>,
}

impl<S, B> Service<http::Request<B>> for Counted<S>
where
    S: Service<http::Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<B>) -> S::Future {
        let reads = request.uri().path().ends_with("/ReadChunks");
        self.reads.fetch_add(u64::from(reads), Ordering::Relaxed);
        self.inner.call(request)
    }
}

impl<S: NamedService> NamedService for Counted<S> {
    const NAME: &'static str = S::NAME;
}

/// Bytes that differ by seed and do not repeat soon.
pub(crate) fn bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

/// A safetensors file of tensors of so many bytes.
pub(crate) fn safetensors(seed: u64, tensors: &[usize]) -> Vec<u8> {
    let mut at = 0;
    let members: Vec<String> = tensors
        .iter()
        .enumerate()
        .map(|(i, size)| {
            let begin = at;
            at += size;
            format!(r#""t{i:03}":{{"dtype":"U8","shape":[{size}],"data_offsets":[{begin},{at}]}}"#)
        })
        .collect();
    let header = format!("{{{}}}", members.join(","));
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    for (i, size) in tensors.iter().enumerate() {
        file.extend(bytes(seed * 1000 + i as u64, *size));
    }
    file
}

/// Sizes of the tensors of [`checkpoint`]: seven chunks with the header.
pub(crate) const TENSORS: [usize; 6] = [5 << 20, 100, 200, 128 << 10, 1 << 20, 7];

/// The weights of [`checkpoint`].
pub(crate) fn weights(seed: u64) -> Vec<u8> {
    safetensors(seed, &TENSORS)
}

/// A folder with a checkpoint: 6 MiB and a bit of weights, a report, a file in a folder, an empty one.
pub(crate) fn checkpoint(seed: u64) -> TempDir {
    let dir = tempfile::tempdir().expect("tempdir");
    write(dir.path(), "model.safetensors", &weights(seed));
    write(dir.path(), "report.json", br#"{"accuracy":{"shared":0.1}}"#);
    write(dir.path(), "extra/notes.md", b"# notes");
    write(dir.path(), "empty", b"");
    dir
}

pub(crate) fn write(dir: &Path, path: &str, data: &[u8]) {
    let path = dir.join(path);
    std::fs::create_dir_all(path.parent().expect("inside")).expect("makes");
    std::fs::write(path, data).expect("writes");
}

pub(crate) fn request(name: &str, alias: Option<(&str, Expected)>) -> PublishRequest {
    PublishRequest {
        alias: alias.map(|(alias, expected)| Alias {
            name: alias.to_owned(),
            expected,
            reason: "test".to_owned(),
        }),
        ..PublishRequest::new(name, Kind::Model)
    }
}

/// A push under the name `demo`, without an alias.
pub(crate) static REQUEST: std::sync::LazyLock<PublishRequest> =
    std::sync::LazyLock::new(|| request("demo", None));

pub(crate) fn assert_same(dir: &Path, other: &Path, manifest: &Manifest) {
    for file in &manifest.files {
        let read = |dir: &Path| std::fs::read(dir.join(&file.path)).expect("reads");
        assert!(read(dir) == read(other), "{} differs", file.path);
    }
}

pub(crate) fn raw(data: &[u8]) -> Chunk {
    Chunk {
        id: Some(id(data)),
        data: data.to_vec().into(),
        ..Chunk::default()
    }
}

pub(crate) fn id(data: &[u8]) -> espalier_proto::v1::ChunkId {
    let ChunkId { digest, size } = ChunkId::of(data);
    espalier_proto::v1::ChunkId {
        digest: digest.to_string(),
        size,
    }
}

pub(crate) async fn upload(registry: &Registry, data: &[u8]) {
    let request = WriteChunksRequest {
        chunks: vec![raw(data)],
        lease: String::new(),
    };
    let mut rpc = registry.rpc().await;
    rpc.write_chunks(request).await.expect("writes");
}

pub(crate) async fn is_missing(registry: &Registry, data: &[u8]) -> bool {
    let request = FindMissingChunksRequest {
        chunks: vec![id(data)],
        lease: String::new(),
    };
    let mut rpc = registry.rpc().await;
    let answer = rpc.find_missing_chunks(request).await.expect("answers");
    !answer.into_inner().missing.is_empty()
}
