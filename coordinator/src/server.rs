pub(crate) mod registry;

use std::path::PathBuf;
use std::time::Duration;

use espalier_proto::v1::FILE_DESCRIPTOR_SET;
use espalier_proto::v1::job_service_server::JobServiceServer;
use espalier_proto::v1::registry_service_server::RegistryServiceServer;
use espalier_proto::v1::worker_service_server::WorkerServiceServer;
use espalier_proto::{MAX_MESSAGE, MAX_REGISTRY_MESSAGE};
use espalier_registry::{RegistryError, RegistryService};
use espalier_store::{EtcdOptions, Store, StoreError};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::server::NamedService as _;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::{Connected, TcpIncoming};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use tracing::{info, warn};

use crate::api::{Jobs, Workers};
use crate::args;
use crate::blobs_folder::{self, FolderError};
use crate::error::Error;
use crate::role::{Leading, Led, Role};
use crate::term;

/// Time between two pings of a connection, and longest wait for the answer: without them a cut link
/// is never noticed.
const KEEP_ALIVE: Duration = Duration::from_secs(1);

/// Bytes that a client may send before they are read: two messages of the registry.
const WINDOW: u32 = 2 * MAX_REGISTRY_MESSAGE as u32;

/// What health is told of.
const SERVICES: [&str; 3] = [
    JobServiceServer::<Jobs>::NAME,
    WorkerServiceServer::<Workers>::NAME,
    RegistryServiceServer::<RegistryService>::NAME,
];

/// Longest wait for open calls when stopping.
pub(crate) const DRAIN: Duration = Duration::from_secs(5);

/// How the coordinator runs.
#[derive(Clone, Debug)]
pub struct Options {
    /// Folder of all state: `blobs/`, and `state.redb` of the embedded store.
    pub data_dir: PathBuf,
    /// What is run.
    pub role: args::Role,
    /// Most bytes that the registry may store.
    pub registry_quota: Option<u64>,
    /// Where the state is kept that is not blobs.
    pub store: StoreOptions,
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
    /// Where others reach it, as `host:port`: the name under which it leads.
    pub advertise: String,
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
            store: StoreOptions::Embedded,
            lease_ttl: Duration::from_secs(5),
            start_deadline: Duration::from_secs(300),
            infrastructure_restarts: 20,
            recoveries: 20,
            hold: Duration::from_secs(120),
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
    /// The data folder is not the one that the coordinators share.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The stored state cannot be read, or the store failed.
    #[error(transparent)]
    State(#[from] Error),
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
        StoreOptions::Etcd(etcd) => {
            let store = Store::connect_etcd((**etcd).clone()).await?;
            blobs_folder::check(&store, &data_dir).await?;
            store
        }
    };
    let address = listener
        .local_addr()
        .map_err(|error| ServeError::Serve(error.to_string()))?;
    info!(%address, "listening");
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let ended = match options.role {
        args::Role::All => run_on(&options, &store, incoming, stop).await,
        args::Role::Registry => registry::serve_alone(&options, &store, incoming, stop).await,
    };
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
        let served = serve(incoming, routes, halt.clone()).await;
        halt.cancel();
        tasks.close();
        if tokio::time::timeout(DRAIN, tasks.wait()).await.is_err() {
            warn!("streams were still open when the time to drain was over");
        }
        done.cancel();
        served
    };
    let led = async {
        let ended = term::keep_campaigning(options, store, &leading, &halt, &done).await;
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

/// The server's end of a connection.
pub trait Connection: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static {}

impl<C: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static> Connection for C {}

async fn serve<I, C>(incoming: I, routes: Routes, halt: CancellationToken) -> Result<(), ServeError>
where
    I: Stream<Item = std::io::Result<C>>,
    C: Connection,
{
    let server = Server::builder()
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE))
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .add_routes(routes)
        .serve_with_incoming_shutdown(incoming, halt.cancelled());
    let overdue = async {
        halt.cancelled().await;
        tokio::time::sleep(DRAIN).await;
    };
    tokio::select! {
        served = server => served.map_err(|error| ServeError::Serve(error.to_string())),
        () = overdue => {
            warn!("connections were still open when the time to drain was over");
            Ok(())
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
    let registry = Led::new(role, |leading| leading.registry.into_server());
    reflected(Routes::new(jobs).add_service(workers).add_service(registry))
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
