mod registry;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use espalier_proto::v1::FILE_DESCRIPTOR_SET;
use espalier_proto::v1::job_service_server::JobServiceServer;
use espalier_proto::v1::registry_service_server::RegistryServiceServer;
use espalier_proto::v1::worker_service_server::WorkerServiceServer;
use espalier_proto::{MAX_MESSAGE, MAX_REGISTRY_MESSAGE};
use espalier_registry::{RegistryError, RegistryService};
use espalier_store::{Store, StoreError};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tracing::{info, warn};

use crate::api::{Jobs, Workers};
use crate::args::Role;
use crate::clock::Clock;
use crate::control::{Control, Handle};
use crate::error::Error;
use crate::ledger::Ledger;
use crate::membership::Limits;
use crate::sessions::Sessions;

/// Time between two pings of a connection, and longest wait for the answer: without them a cut link
/// is never noticed.
const KEEP_ALIVE: Duration = Duration::from_secs(1);

/// Bytes that a client may send before they are read: two messages of the registry.
const WINDOW: u32 = 2 * MAX_REGISTRY_MESSAGE as u32;

/// Longest wait for open calls when stopping.
const DRAIN: Duration = Duration::from_secs(5);

/// How the coordinator runs.
#[derive(Clone, Debug)]
pub struct Options {
    /// Folder of all state: `state.redb` and `blobs/`.
    pub data_dir: PathBuf,
    /// What is run.
    pub role: Role,
    /// Most bytes that the registry may store.
    pub registry_quota: Option<u64>,
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
    /// Name under which it leads.
    pub advertise: String,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("espalier-data"),
            role: Role::All,
            registry_quota: None,
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
/// When it cannot start, or the store fails. What was acknowledged is stored; start it again.
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
    let store = Store::open(
        data_dir.join("state.redb"),
        espalier_store::Options::default(),
    )
    .await?;
    let ended = match options.role {
        Role::All => lead(&options, &store, listener, stop).await,
        Role::Registry => registry::serve_alone(&options, &store, listener, stop).await,
    };
    store.close().await;
    ended
}

async fn lead(
    options: &Options,
    store: &Store,
    listener: TcpListener,
    stop: CancellationToken,
) -> Result<(), ServeError> {
    let blobs = registry::open(options).await?;
    let leader = store.campaign(&options.advertise).await?;
    let clock = Clock::start();
    let limits = Limits {
        lease_ttl: options.lease_ttl,
        start: options.start_deadline,
        infrastructure_restarts: options.infrastructure_restarts,
        recoveries: options.recoveries,
        hold: options.hold,
    };
    let (control, handle) = Control::load(leader.clone(), clock, limits).await?;
    // Ends all when either the loop or the server ends.
    let halt = stop.child_token();
    let tasks = TaskTracker::new();
    let sessions = Sessions {
        leader: leader.clone(),
        control: handle.clone(),
        clock,
        stop: halt.clone(),
    };
    let hook = Arc::new(Ledger::new(store.clone(), handle.clone()));
    let registry = RegistryService::new(blobs, leader, hook);
    tasks.spawn(registry.clone().keep_clean(halt.clone()));
    let routes = routes(registry.clone(), handle, sessions, &tasks, &halt).await?;
    let served = async {
        let served = serve(listener, routes, halt.clone()).await;
        halt.cancel();
        tasks.close();
        if tokio::time::timeout(DRAIN, tasks.wait()).await.is_err() {
            warn!("streams were still open when the time to drain was over");
        }
        registry::drain(&registry).await;
        served
    };
    let controlled = async {
        // Calls that still come are told that the coordinator is stopping.
        let ended = control.run(halt.clone()).await;
        halt.cancel();
        ended
    };
    let (served, controlled) = tokio::join!(served, controlled);
    controlled?;
    served
}

async fn serve(
    listener: TcpListener,
    routes: Routes,
    halt: CancellationToken,
) -> Result<(), ServeError> {
    let failed = |error: &dyn std::error::Error| ServeError::Serve(error.to_string());
    let address: SocketAddr = listener.local_addr().map_err(|e| failed(&e))?;
    info!(%address, "listening");
    let server = Server::builder()
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE))
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .add_routes(routes)
        .serve_with_incoming_shutdown(
            TcpIncoming::from(listener).with_nodelay(Some(true)),
            halt.cancelled(),
        );
    let overdue = async {
        halt.cancelled().await;
        tokio::time::sleep(DRAIN).await;
    };
    tokio::select! {
        served = server => served.map_err(|e| failed(&e)),
        () = overdue => {
            warn!("connections were still open when the time to drain was over");
            Ok(())
        }
    }
}

async fn routes(
    registry: RegistryService,
    handle: Handle,
    sessions: Sessions,
    tasks: &TaskTracker,
    halt: &CancellationToken,
) -> Result<Routes, ServeError> {
    let store = sessions.leader.store().clone();
    let jobs = JobServiceServer::new(Jobs::new(store, handle, tasks.clone(), halt.clone()))
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);
    let workers = WorkerServiceServer::new(Workers::new(sessions, tasks.clone()))
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);
    let registry = registry.into_server();
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<JobServiceServer<Jobs>>().await;
    health.set_serving::<WorkerServiceServer<Workers>>().await;
    health
        .set_serving::<RegistryServiceServer<RegistryService>>()
        .await;
    let routes = Routes::new(jobs)
        .add_service(workers)
        .add_service(registry)
        .add_service(health_service);
    reflected(routes)
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
