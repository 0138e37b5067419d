//! The port: how connections come in, and what stands before the services.

use std::net::SocketAddr;
use std::time::Duration;

use espalier_proto::{MAX_FRAME, SERVER_WINDOW};
use espalier_store::Store;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::{Connected, TcpIncoming};
use tracing::{info, warn};

use super::{DRAIN, Options, ServeError, StoreOptions};
use crate::auth::{AdminToken, Audit, Auth, Guard};
use crate::tls::Acceptor;

/// Time between two pings of a connection: without them a cut link is never noticed.
const KEEP_ALIVE: Duration = Duration::from_secs(1);

/// Longest wait for the answer: a client on a busy machine is not cut off, and a lease is longer.
const KEEP_ALIVE_ANSWER: Duration = Duration::from_secs(3);

/// Connections that have shaken hands and wait to be served.
const ACCEPTED: usize = 64;

/// The port.
pub(super) struct Door {
    listener: TcpListener,
    address: SocketAddr,
    tls: Option<Acceptor>,
}

impl Door {
    /// Refuses what is not safe, before anything is begun.
    pub(super) fn check(options: &Options, listener: TcpListener) -> Result<Self, ServeError> {
        let address = listener
            .local_addr()
            .map_err(|e| ServeError::Serve(e.to_string()))?;
        let auth = &options.auth;
        let tls = auth.tls.clone().map(Acceptor::open).transpose()?;
        let in_the_clear = tls.is_none() && !address.ip().is_loopback();
        if auth.auth == Auth::Required && in_the_clear && !auth.plaintext_tokens {
            return Err(ServeError::Plaintext(address));
        }
        if auth.auth == Auth::Off && !address.ip().is_loopback() {
            warn!(%address, "whoever reaches this address may do everything: see --auth required");
        }
        Ok(Self {
            listener,
            address,
            tls,
        })
    }

    /// Serves until `halt`, then drains for a bounded time.
    pub(super) async fn serve(
        self,
        routes: Routes,
        guard: Guard,
        halt: CancellationToken,
    ) -> Result<(), ServeError> {
        info!(address = %self.address, encrypted = self.tls.is_some(), "listening");
        let Some(tls) = self.tls else {
            let incoming = TcpIncoming::from(self.listener).with_nodelay(Some(true));
            return serve_on(incoming, routes, guard, halt).await;
        };
        let (accepted, incoming) = mpsc::channel(ACCEPTED);
        let incoming = ReceiverStream::new(incoming);
        let served = serve_on(incoming, routes, guard, halt.clone());
        tokio::pin!(served);
        tokio::select! {
            served = &mut served => return served,
            () = tls.accept(self.listener, accepted) => {}
            () = halt.cancelled() => {}
        }
        served.await
    }
}

/// The server's end of a connection.
pub trait Connection: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static {}

impl<C: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static> Connection for C {}

/// Serves connections until `halt`, then drains for a bounded time.
pub(super) async fn serve_on<I, C>(
    incoming: I,
    routes: Routes,
    guard: Guard,
    halt: CancellationToken,
) -> Result<(), ServeError>
where
    I: Stream<Item = std::io::Result<C>>,
    C: Connection,
{
    let server = Server::builder()
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE_ANSWER))
        .initial_stream_window_size(SERVER_WINDOW)
        .initial_connection_window_size(SERVER_WINDOW)
        .max_frame_size(MAX_FRAME)
        .layer(guard)
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

/// What stands before the services.
pub(super) fn guard(options: &Options, store: &Store) -> Result<Guard, ServeError> {
    let auth = &options.auth;
    let path = auth.audit.clone().unwrap_or_else(|| {
        let name = match options.store {
            StoreOptions::Embedded => "audit.jsonl".to_owned(),
            // Each of those that share the folder has its own.
            StoreOptions::Etcd(_) => {
                let own = options.advertise.replace(['/', ':'], "-");
                format!("audit-{own}.jsonl")
            }
        };
        options.data_dir.join(name)
    });
    let audit = Audit::open_file(&path)?;
    let admin = match auth.auth {
        Auth::Off => None,
        Auth::Required => {
            let path = auth.admin_token.clone();
            let path = path.unwrap_or_else(|| options.data_dir.join("admin-token"));
            Some(AdminToken::open(&path)?)
        }
    };
    Ok(Guard::new(store.clone(), admin, audit))
}
