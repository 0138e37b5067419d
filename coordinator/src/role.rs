//! Whether this coordinator leads: what it serves then, and whom it points to otherwise.

use std::convert::Infallible;
use std::task::{Context, Poll};
use std::time::Duration;

use espalier_registry::RegistryService;
use espalier_store::{Store, StoreError};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::NamedService;

use crate::control::Handle;
use crate::error::Error;
use crate::sessions::Sessions;

/// Longest time that a call is held while nobody leads: usually enough for another to be elected.
const ELECTION: Duration = Duration::from_secs(3);

/// Time between two looks for a leader elsewhere.
const LOOK: Duration = Duration::from_millis(100);

/// What a leader serves.
#[derive(Clone)]
pub(crate) struct Leading {
    pub(crate) control: Handle,
    pub(crate) sessions: Sessions,
    pub(crate) registry: RegistryService,
}

/// The present role. Clones see the same.
#[derive(Clone)]
pub(crate) struct Role {
    store: Store,
    /// Our name.
    id: String,
    leading: watch::Receiver<Option<Leading>>,
}

impl Role {
    pub(crate) fn new(store: Store, id: String, leading: watch::Receiver<Option<Leading>>) -> Self {
        Self { store, id, leading }
    }

    /// What it serves as the leader. While nobody leads, waits a little.
    ///
    /// # Errors
    /// [`StoreError::NotLeader`] with the leader's address, if there is one; what the store says when
    /// it cannot be asked.
    pub(crate) async fn leading(&self) -> Result<Leading, Error> {
        let mut leading = self.leading.clone();
        let give_up = Instant::now() + ELECTION;
        loop {
            if let Some(leading) = leading.borrow_and_update().clone() {
                return Ok(leading);
            }
            let left = give_up.saturating_duration_since(Instant::now());
            let holder = timeout(left, self.store.leader()).await;
            let holder = holder.unwrap_or(Ok(None))?;
            // Our own name is there before the state is read, and after we were killed.
            let elsewhere = holder.filter(|holder| *holder != self.id);
            if elsewhere.is_some() || left.is_zero() {
                return Err(StoreError::NotLeader { holder: elsewhere }.into());
            }
            // Either way we look again.
            let _ = timeout(LOOK.min(left), leading.changed()).await;
        }
    }

    /// Asks the leader's loop. A loop that ended because another leads says so.
    ///
    /// # Errors
    /// As [`Role::leading`]; what the loop answers.
    pub(crate) async fn ask<T, F>(&self, ask: impl FnOnce(Handle) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let mut leading = self.leading.clone();
        leading.mark_unchanged();
        let answer = ask(self.leading().await?.control).await;
        if matches!(answer, Err(Error::Stopping)) {
            // The end of the loop is seen a moment before the end of the term.
            let _ = timeout(LOOK, leading.changed()).await;
            self.leading().await?;
        }
        answer
    }
}

/// A service that only the leader has.
#[derive(Clone)]
pub(crate) struct Led<S> {
    role: Role,
    serve: fn(Leading) -> S,
}

impl<S> Led<S> {
    /// `serve` makes the service from what a leader has; clones of it must share their limits.
    pub(crate) fn new(role: Role, serve: fn(Leading) -> S) -> Self {
        Self { role, serve }
    }
}

impl<S: NamedService> NamedService for Led<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<http::Request<Body>> for Led<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    S: Send + 'static,
    S::Future: Send,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // Services made by tonic are always ready.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let (role, serve) = (self.role.clone(), self.serve);
        Box::pin(async move {
            match role.leading().await {
                Ok(leading) => {
                    let answer = serve(leading).call(request);
                    answer.await
                }
                Err(error) => Ok(Status::from(error).into_http()),
            }
        })
    }
}
