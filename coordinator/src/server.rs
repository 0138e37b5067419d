mod door;
pub(crate) mod registry;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use espalier_proto::MAX_MESSAGE;
use espalier_proto::v1::FILE_DESCRIPTOR_SET;
use espalier_proto::v1::job_service_server::JobServiceServer;
use espalier_proto::v1::registry_service_server::RegistryServiceServer;
use espalier_proto::v1::token_service_server::TokenServiceServer;
use espalier_proto::v1::worker_service_server::WorkerServiceServer;
use espalier_registry::{MirrorOptions, RegistryError, RegistryService};
use espalier_store::{EtcdOptions, Store, StoreError};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::server::NamedService as _;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use tracing::warn;

use crate::api::{Jobs, Workers};
use crate::args;
use crate::auth::{AdminTokenError, AuditError, AuthOptions, Guard, Tokens};
use crate::blobs_place::{Place, PlaceError};
use crate::error::Error;
use crate::role::{Leading, Led, Role};
use crate::term;
use crate::tls::TlsError;
pub use door::Connection;
use door::Door;

/// What health is told of.
const SERVICES: [&str; 4] = [
    JobServiceServer::<Jobs>::NAME,
    WorkerServiceServer::<Workers>::NAME,
    RegistryServiceServer::<RegistryService>::NAME,
    TokenServiceServer::<Tokens>::NAME,
];

/// Longest wait for open calls when stopping.
pub(crate) const DRAIN: Duration = Duration::from_secs(5);

/// How the coordinator runs.
#[derive(Clone, Debug)]
pub struct Options {
    /// Folder of all state: `blobs/` unless they lie in a bucket, and `state.redb` of the embedded store.
    pub data_dir: PathBuf,
    /// What is run.
    pub role: args::Role,
    /// Most bytes that the registry may store.
    pub registry_quota: Option<u64>,
    /// Where the registry's chunks lie.
    pub blobs: BlobsOptions,
    /// The registry that a registry which runs alone mirrors.
    pub mirror: Option<MirrorOptions>,
    /// Where the state is kept that is not blobs.
    pub store: StoreOptions,
    /// Who may call, and how.
    pub auth: AuthOptions,
    /// Time without a message after which a worker counts as lost; 200 ms to 10 min.
    pub lease_ttl: Duration,
    /// Time from a gang's placement until its ranks have met.
    pub start_deadline: Duration,
    /// Restarts of a job from a checkpoint after faults of processes, hosts and links.
    pub infrastructure_restarts: u32,
    /// Recoveries of a job in memory within [`crate::membership::RECENT`].
    pub recoveries: u32,
    /// Time that survivors keep their state and wait for others.
    pub hold: Duration,
    /// Time that a gang which is to leave its workers has for the step it is in and its checkpoint.
    pub leave: Duration,
    /// Where others reach it, as `host:port`: the name under which it leads.
    pub advertise: String,
}

/// Where the registry's chunks lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlobsOptions {
    /// In the data folder.
    Folder,
    /// In a bucket of an S3-compatible store.
    Bucket {
        /// `s3://bucket/prefix`.
        url: String,
        /// The variables of the environment that begin with `AWS_`.
        settings: Secrets,
    },
}

/// Names and values that are not to be shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secrets(pub Vec<(String, String)>);

impl Secrets {
    pub(crate) fn pairs(&self) -> Vec<(String, String)> {
        self.0.clone()
    }
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list()
            .entries(self.0.iter().map(|(name, _)| name))
            .finish()
    }
}

/// Which store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreOptions {
    /// A file in the data folder, of this coordinator alone.
    Embedded,
    /// An etcd cluster that several coordinators share, and the data folder with it.
    Etcd(Box<EtcdOptions>),
}

impl Default for Options {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("espalier-data"),
            role: args::Role::All,
            registry_quota: None,
            blobs: BlobsOptions::Folder,
            mirror: None,
            store: StoreOptions::Embedded,
            auth: AuthOptions::default(),
            lease_ttl: Duration::from_secs(5),
            start_deadline: Duration::from_secs(300),
            infrastructure_restarts: 20,
            recoveries: 20,
            hold: Duration::from_secs(120),
            leave: Duration::from_secs(120),
            advertise: "coordinator".to_owned(),
        }
    }
}

/// Why the coordinator ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The data folder cannot be made.
    #[error("cannot make the data folder {}: {source}", path.display())]
    DataDir {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The store cannot be opened; another coordinator may run on the folder.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The folder of chunks cannot be used.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The chunks' folder or bucket is not this deployment's.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// The stored state cannot be read, or the store failed.
    #[error(transparent)]
    State(#[from] Error),
    /// The certificate cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The token that may do everything cannot be read or made.
    #[error(transparent)]
    AdminToken(#[from] AdminTokenError),
    /// The audit log cannot be written.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// Tokens would go over the network in the clear.
    #[error(
        "tokens are asked for at {0}, which other machines reach, without encryption: pass --tls-cert and \
         --tls-key, or --plaintext-tokens if everybody between may read them"
    )]
    Plaintext(SocketAddr),
    /// The network failed.
    #[error("cannot serve: {0}")]
    Serve(String),
}

/// Runs a coordinator on a listener until `stop`, then drains for a bounded time.
///
/// # Errors
/// When it cannot start, or the embedded store fails. What was acknowledged is stored; start it again.
pub async fn run(
    options: Options,
    listener: TcpListener,
    stop: CancellationToken,
) -> Result<(), ServeError> {
    let door = Door::check(&options, listener)?;
    let data_dir = options.data_dir.clone();
    tokio::fs::create_dir_all(&data_dir)
        .await
        .map_err(|source| ServeError::DataDir {
            path: data_dir.clone(),
            source,
        })?;
    let store = match &options.store {
        StoreOptions::Embedded => {
            let file = data_dir.join("state.redb");
            Store::open(file, espalier_store::Options::default()).await?
        }
        StoreOptions::Etcd(etcd) => Store::connect_etcd((**etcd).clone()).await?,
    };
    let ended = on(&options, &store, door, stop).await;
    store.close().await;
    ended
}

/// Runs a coordinator on a store that is open and on connections from anywhere, until `stop`. The
/// registry's chunks are in `data_dir`; the store is taken for shared if the options say so.
///
/// # Errors
/// As [`run`].
pub async fn run_on<I, C>(
    options: &Options,
    store: &Store,
    incoming: I,
    stop: CancellationToken,
) -> Result<(), ServeError>
where
    I: Stream<Item = std::io::Result<C>>,
    C: Connection,
{
    let place = Place::open(options, store).await?;
    let serve = |routes, guard, halt| door::serve_on(incoming, routes, guard, halt);
    coordinate(options, store, &place, serve, stop).await
}

async fn on(
    options: &Options,
    store: &Store,
    door: Door,
    stop: CancellationToken,
) -> Result<(), ServeError> {
    let place = Place::open(options, store).await?;
    match options.role {
        args::Role::All => {
            let serve = |routes, guard, halt| door.serve(routes, guard, halt);
            coordinate(options, store, &place, serve, stop).await
        }
        args::Role::Registry => registry::serve_alone(options, store, &place, door, stop).await,
    }
}

async fn coordinate<F>(
    options: &Options,
    store: &Store,
    place: &Place,
    serve: impl FnOnce(Routes, Guard, CancellationToken) -> F,
    stop: CancellationToken,
) -> Result<(), ServeError>
where
    F: Future<Output = Result<(), ServeError>>,
{
    let guard = door::guard(options, store)?;
    let (leading, seen) = watch::channel(None);
    let role = Role::new(store.clone(), options.advertise.clone(), seen.clone());
    // Ends all when either the campaigns or the server end.
    let halt = stop.child_token();
    let tasks = TaskTracker::new();
    let (health, health_service) = tonic_health::server::health_reporter();
    let routes = routes(store, role, &tasks, &halt)?.add_service(health_service);
    let done = CancellationToken::new();
    let mut first = seen.clone();
    let served = async {
        if options.store == StoreOptions::Embedded {
            // There is nobody else to point to: connections wait until it leads.
            tokio::select! {
                _ = first.wait_for(Option::is_some) => {}
                () = halt.cancelled() => {}
            }
        }
        let served = serve(routes, guard, halt.clone()).await;
        halt.cancel();
        tasks.close();
        if tokio::time::timeout(DRAIN, tasks.wait()).await.is_err() {
            warn!("streams were still open when the time to drain was over");
        }
        done.cancel();
        served
    };
    let led = async {
        let ended = term::keep_campaigning(options, store, place, &leading, &halt, &done).await;
        halt.cancel();
        ended
    };
    let (served, led, ()) = tokio::join!(served, led, tell_health(health, seen, &halt));
    led?;
    served
}

/// A coordinator is healthy while it leads: whoever balances by health finds the leader.
async fn tell_health(
    health: HealthReporter,
    mut leading: watch::Receiver<Option<Leading>>,
    halt: &CancellationToken,
) {
    loop {
        let status = if leading.borrow_and_update().is_some() {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        };
        for service in SERVICES {
            health.set_service_status(service, status).await;
        }
        tokio::select! {
            changed = leading.changed() => if changed.is_err() { return },
            () = halt.cancelled() => return,
        }
    }
}

fn routes(
    store: &Store,
    role: Role,
    tasks: &TaskTracker,
    halt: &CancellationToken,
) -> Result<Routes, ServeError> {
    let jobs = Jobs::new(store.clone(), role.clone(), tasks.clone(), halt.clone());
    let jobs = JobServiceServer::new(jobs)
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);
    let workers = WorkerServiceServer::new(Workers::new(role.clone(), tasks.clone()))
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);
    let tokens = TokenServiceServer::new(Tokens::new(store.clone(), role.clone()))
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);
    let registry = Led::new(role, |leading| leading.registry.into_server());
    let routes = Routes::new(jobs).add_service(workers).add_service(tokens);
    reflected(routes.add_service(registry))
}

/// The routes, and the services that describe them.
fn reflected(routes: Routes) -> Result<Routes, ServeError> {
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let failed = |error: tonic_reflection::server::Error| ServeError::Serve(error.to_string());
    Ok(routes
        .add_service(reflection().build_v1().map_err(failed)?)
        .add_service(reflection().build_v1alpha().map_err(failed)?))
}
