//! What an agent reaches beyond itself: coordinators over a network, and the processes of its ranks.

use std::fmt;
use std::io;
use std::path::Path;
use std::pin::Pin;

use espalier_proto::v1::LogLine;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;
use tonic::async_trait;
use tonic::transport::{Channel, Endpoint, Error};

use super::{connection, rank_process};
use crate::args::Device;

/// The world around an agent. [`Machine`] is the real one; a simulation has another.
#[async_trait]
pub trait Outside: fmt::Debug + Send + Sync + 'static {
    /// Connects to a coordinator.
    ///
    /// # Errors
    /// It cannot be reached.
    async fn dial(&self, endpoint: Endpoint) -> Result<Channel, Error>;

    /// Listens for the ranks of a crew.
    ///
    /// # Errors
    /// The folder cannot be opened, or has a socket.
    fn listen(&self, run_dir: &Path) -> io::Result<Box<dyn Listener>>;

    /// Starts a rank's process, which is killed when `kill` is cancelled or the future is dropped. The
    /// future ends when the process has, and all that it wrote went to `logs`.
    ///
    /// # Errors
    /// It cannot be started.
    fn start(
        &self,
        spawn: &Spawn<'_>,
        logs: Logs,
        kill: CancellationToken,
    ) -> io::Result<RankProcess>;
}

/// Where ranks connect.
#[async_trait]
pub trait Listener: Send {
    /// The next connection. Cancel-safe.
    ///
    /// # Errors
    /// It failed; another may come.
    async fn accept(&mut self) -> io::Result<Box<dyn Duplex>>;
}

/// A rank's connection.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// Takes lines that a rank wrote.
pub type Logs = Box<dyn Fn(Vec<LogLine>) + Send>;

/// A rank's process, to its end.
pub type RankProcess = Pin<Box<dyn Future<Output = Exit> + Send>>;

/// Which rank to start, and where.
#[derive(Debug)]
pub struct Spawn<'a> {
    /// Its number among the processes of the job.
    pub seat: u64,
    /// Its slot on this worker: the GPU that it sees.
    pub slot: u32,
    /// Where its tensors live.
    pub device: Device,
    /// Folder of the job's ranks, with the agent's socket.
    pub run_dir: &'a Path,
}

/// How a process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Signal or code, in words.
    pub status: String,
    /// Last line on stderr.
    pub last_line: Option<String>,
}

/// The machine's network and processes.
#[derive(Clone, Copy, Debug)]
pub struct Machine;

#[async_trait]
impl Outside for Machine {
    async fn dial(&self, endpoint: Endpoint) -> Result<Channel, Error> {
        endpoint.connect().await
    }

    fn listen(&self, run_dir: &Path) -> io::Result<Box<dyn Listener>> {
        Ok(Box::new(connection::listen(run_dir)?))
    }

    fn start(
        &self,
        spawn: &Spawn<'_>,
        logs: Logs,
        kill: CancellationToken,
    ) -> io::Result<RankProcess> {
        Ok(Box::pin(rank_process::start(spawn, logs, kill)?))
    }
}

#[async_trait]
impl Listener for UnixListener {
    async fn accept(&mut self) -> io::Result<Box<dyn Duplex>> {
        let (stream, _) = Self::accept(self).await?;
        Ok(Box::new(stream))
    }
}
