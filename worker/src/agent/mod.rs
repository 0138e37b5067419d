//! The agent: one per machine. It keeps a session with the coordinator, starts ranks as processes,
//! carries their reports, and pushes their checkpoints. It never calls libtorch.

mod assets;
mod backoff;
mod connection;
mod coordinators;
mod crew;
mod gang;
mod identity;
mod key;
mod lines;
mod logs;
mod mailbox;
mod outbox;
mod outside;
mod pulse;
mod push;
mod rank_process;
mod report;
mod roster;
mod session;
mod state;
mod supervisor;
mod throttle;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use espalier_auth::Access;
use espalier_proto::v1::{DeviceKind, Register};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::args::{AgentArgs, Device};
use coordinators::Coordinators;
use identity::Home;
use mailbox::Mailbox;
use outbox::Outbox;
pub use outside::{Duplex, Exit, Listener, Logs, Machine, Outside, RankProcess, Spawn};
use pulse::Pulse;
use session::Session;
use supervisor::Supervisor;

/// Bytes of metrics and log lines kept while the coordinator is away.
const OUTBOX_LIMIT: usize = 16 << 20;
/// Orders on their way to the supervisor.
const ORDERS: usize = 64;
/// Time for the last reports to be acknowledged when the agent stops.
const DRAIN: Duration = Duration::from_secs(5);

/// Serves the coordinator until interrupted or terminated.
///
/// # Errors
/// A folder that cannot be used, or an endpoint that is none. Losing the coordinator is no error.
pub async fn run(args: AgentArgs) -> anyhow::Result<()> {
    serve(args, Arc::new(Machine), stop_signal()?).await
}

/// Serves the coordinator until `stop` ends, with another network and other processes than the
/// machine's.
///
/// # Errors
/// As [`run`].
pub async fn serve(
    args: AgentArgs,
    outside: Arc<dyn Outside>,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let home = Home::open(&args.dir, args.id.as_deref())?;
    let incarnation = Uuid::new_v4();
    tracing::info!(
        worker = home.worker_id,
        coordinators = ?args.coordinator,
        "agent starts"
    );

    let access = Access::new(args.access.clone())?;
    let coordinators = Coordinators::new(&args.coordinator, access, outside.clone())?;
    let mailbox = Mailbox::new(Outbox::new(OUTBOX_LIMIT));
    let pulse = Pulse::default();
    let (orders, received) = mpsc::channel(ORDERS);
    let session = Session {
        coordinators: coordinators.clone(),
        register: Register {
            worker_id: home.worker_id.clone(),
            incarnation: incarnation.to_string(),
            rendezvous_host: args.host.clone(),
            device: match args.device {
                Device::Cpu => DeviceKind::Cpu,
                Device::Cuda => DeviceKind::Cuda,
            }
            .into(),
            slots: args.slots,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            running: Vec::new(),
        },
        mailbox: mailbox.clone(),
        pulse: pulse.clone(),
        orders,
        seed: incarnation.as_u64_pair().0,
    };
    let mut supervisor = Supervisor::new(
        &args,
        outside,
        coordinators,
        home.runs.clone(),
        mailbox.clone(),
        pulse,
    );

    let stop_session = CancellationToken::new();
    let session = tokio::spawn(session.run(stop_session.clone()));
    supervisor.serve(received, stop).await;
    supervisor.stop_all().await;
    if tokio::time::timeout(DRAIN, mailbox.drained())
        .await
        .is_err()
    {
        tracing::warn!("some reports were not acknowledged in time");
    }
    stop_session.cancel();
    session.await.context("the session task")?;
    tracing::info!("agent stopped");
    Ok(())
}

/// Ends when the process is interrupted or terminated.
fn stop_signal() -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminated = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupted = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = terminated.recv() => {}
            _ = interrupted.recv() => {}
        }
    })
}
