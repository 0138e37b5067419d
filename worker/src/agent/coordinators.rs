//! Which of the coordinators is asked: the one that leads, as far as is known.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use espalier_auth::{Access, AccessError};
use espalier_registry::{Client, ClientError};
use tonic::Request;
use tonic::transport::{Channel, Endpoint};

use super::outside::Outside;

/// The coordinators. Clones share which one is asked.
#[derive(Clone, Debug)]
pub(crate) struct Coordinators {
    outside: Arc<dyn Outside>,
    given: Arc<[String]>,
    access: Access,
    current: Arc<Mutex<String>>,
}

impl Coordinators {
    /// Those that were given as URLs; the first is asked first.
    ///
    /// # Errors
    /// One that cannot be asked so, or that there is none.
    pub(super) fn new(
        given: &[String],
        access: Access,
        outside: Arc<dyn Outside>,
    ) -> anyhow::Result<Self> {
        let Some(first) = given.first() else {
            bail!("--coordinator names none");
        };
        for url in given {
            access.endpoint(url).context("--coordinator")?;
        }
        Ok(Self {
            access,
            outside,
            current: Arc::new(Mutex::new(first.clone())),
            given: given.into(),
        })
    }

    /// URL of the one to ask.
    pub(super) fn current(&self) -> String {
        self.lock().clone()
    }

    /// How one is reached. Keep-alive at 1 s: without it a link that was cut is never noticed.
    ///
    /// # Errors
    /// What is no URL, or certificates that cannot be used.
    pub(super) fn endpoint(&self, url: &str) -> Result<Endpoint, AccessError> {
        Ok(self
            .access
            .endpoint(url)?
            .connect_timeout(Duration::from_secs(3))
            .http2_keep_alive_interval(Duration::from_secs(1))
            .keep_alive_timeout(Duration::from_secs(1))
            .keep_alive_while_idle(true))
    }

    /// A call, with the token.
    ///
    /// # Errors
    /// A token that cannot be read any more.
    pub(super) fn request<T>(&self, message: T) -> Result<Request<T>, AccessError> {
        let mut request = Request::new(message);
        if let Some(token) = self.access.bearer()?.value() {
            request
                .metadata_mut()
                .insert("authorization", token.clone());
        }
        Ok(request)
    }

    /// Connects to one of them.
    ///
    /// # Errors
    /// It cannot be reached.
    pub(super) async fn dial(
        &self,
        endpoint: Endpoint,
    ) -> Result<Channel, tonic::transport::Error> {
        self.outside.dial(endpoint).await
    }

    /// The registry of one of them.
    ///
    /// # Errors
    /// As [`Client::connect_by`].
    pub(super) async fn registry(&self, url: &str) -> Result<Client, ClientError> {
        Client::connect_by(url, &self.access, |endpoint| self.dial(endpoint)).await
    }

    /// It failed, or said that it does not lead: `leader` does, as `host:port`, or the next may know.
    /// Nothing when another is asked already.
    pub(super) fn leave(&self, failed: &str, leader: Option<&str>) {
        let mut current = self.lock();
        if *current != failed {
            return;
        }
        *current = next(&self.given, failed, leader);
        if *current != failed {
            tracing::info!(from = failed, to = *current, "another coordinator is asked");
        }
    }

    /// As [`Coordinators::leave`], if a call of the registry failed so that another one may answer.
    /// Says whether to try again.
    pub(super) fn leave_after(&self, failed: &str, error: &ClientError) -> bool {
        let status = match error {
            ClientError::Rpc { status, .. } => Some(status),
            _ => None,
        };
        if let Some(leader) = status.and_then(|status| espalier_proto::not_leader(status)) {
            self.leave(failed, leader.as_deref());
            return true;
        }
        if error.is_transient() {
            self.leave(failed, None);
        }
        error.is_transient()
    }

    /// The name is replaced whole, whatever happened to the thread that held it.
    fn lock(&self) -> MutexGuard<'_, String> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn next(given: &[String], failed: &str, leader: Option<&str>) -> String {
    if let Some(leader) = leader {
        let scheme = failed.split("://").next().unwrap_or("http");
        return format!("{scheme}://{leader}");
    }
    let after = given.iter().skip_while(|url| *url != failed).nth(1);
    after.or(given.first()).cloned().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::outside::Machine;
    use super::*;

    fn given() -> Coordinators {
        let given = ["http://a:1".to_owned(), "http://b:1".to_owned()];
        Coordinators::new(&given, Access::default(), Arc::new(Machine)).unwrap()
    }

    #[test]
    fn the_next_is_asked_when_one_fails_once_for_all() {
        let coordinators = given();
        let clone = coordinators.clone();
        coordinators.leave("http://a:1", None);
        clone.leave("http://a:1", None);
        assert_eq!(clone.current(), "http://b:1");
        clone.leave("http://b:1", None);
        assert_eq!(coordinators.current(), "http://a:1");
    }

    #[test]
    fn the_leader_is_followed_though_it_was_not_given() {
        let coordinators = given();
        coordinators.leave("http://a:1", Some("c:1"));
        assert_eq!(coordinators.current(), "http://c:1");
        coordinators.leave("http://c:1", None);
        assert_eq!(coordinators.current(), "http://a:1");
    }

    #[test]
    fn what_is_no_url_is_refused() {
        let given = ["http://a:1".to_owned(), "not a url".to_owned()];
        let machine = || Arc::new(Machine);
        let refused = Coordinators::new(&given, Access::default(), machine()).unwrap_err();
        assert!(format!("{refused:#}").contains("not a url"), "{refused:#}");
        assert!(Coordinators::new(&[], Access::default(), machine()).is_err());
    }
}
