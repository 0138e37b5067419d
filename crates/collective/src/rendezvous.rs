//! Where the ranks of a group find each other: a table of keys that rank 0 serves.

use std::net::TcpListener;
use std::os::fd::IntoRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::bounded::bounded;
use crate::collective::Membership;
use crate::error::{CollectiveError, Operation, Peer};
use crate::ffi::{self, Failure, Owned, Status};

/// How long the hosting process may take to reach its own server.
const OWN_SERVER: Duration = Duration::from_secs(30);

/// How long an absent rank is given to turn up once the deadline has passed for another one.
const LAST_LOOK: Duration = Duration::from_millis(10);

/// A connection to the table of a gang. The engines keep it for as long as their group.
#[derive(Clone, Debug)]
pub struct Rendezvous {
    store: Arc<Owned<ffi::Store>>,
}

impl Rendezvous {
    /// Serves a new table on a free port of the interface `host`, for rank 0 of a gang. The port is
    /// for the others to [`Rendezvous::join`].
    ///
    /// # Errors
    /// [`CollectiveError::Rendezvous`] when the address cannot be listened on.
    pub fn host(host: &str) -> Result<(Self, u16), CollectiveError> {
        let wrong = |reason: String| CollectiveError::Rendezvous {
            address: host.to_owned(),
            reason,
        };
        // c10d alone would listen on every interface of the machine.
        let listener = TcpListener::bind((host, 0))
            .map_err(|error| wrong(format!("cannot listen there: {error}")))?;
        let port = listener
            .local_addr()
            .map_err(|error| wrong(error.to_string()))?
            .port();
        let name = ffi::c_string(host).map_err(|failure| wrong(failure.text))?;
        let listener = listener.into_raw_fd();
        let store = ffi::create(|out, reason| {
            let limit = ffi::milliseconds(OWN_SERVER);
            // SAFETY: the pointers are valid for the call, and the socket is given away.
            unsafe { ffi::esp_store_host(name.as_ptr(), port, listener, limit, out, reason) }
        })
        .map_err(|failure| wrong(failure.text))?;
        Ok((Self::new(store), port))
    }

    /// Reaches the table at `address`, written `host:port`, trying for at most `timeout`.
    ///
    /// # Errors
    /// [`CollectiveError::Rendezvous`] when the address is none or nobody answers there.
    pub fn join(address: &str, timeout: Duration) -> Result<Self, CollectiveError> {
        let wrong = |reason: String| CollectiveError::Rendezvous {
            address: address.to_owned(),
            reason,
        };
        let (host, port) =
            split(address).ok_or_else(|| wrong("not an address of the form host:port".into()))?;
        let host = ffi::c_string(host).map_err(|failure| wrong(failure.text))?;
        bounded(timeout, move || {
            ffi::create(|out, reason| {
                let limit = ffi::milliseconds(timeout);
                // SAFETY: the pointers are valid for the call.
                unsafe { ffi::esp_store_join(host.as_ptr(), port, limit, out, reason) }
            })
        })
        .map_err(|unanswered| wrong(unanswered.to_string()))?
        .map(Self::new)
        .map_err(|failure| {
            let line = failure.text.lines().next().unwrap_or_default();
            wrong(format!("nobody answered within {timeout:?}: {line}"))
        })
    }

    fn new(store: Owned<ffi::Store>) -> Self {
        Self {
            store: Arc::new(store),
        }
    }

    pub(crate) fn as_ptr(&self) -> *mut ffi::Store {
        self.store.as_ptr()
    }

    /// Announces this rank and waits until all have, so that a group is only formed by ranks that
    /// are there.
    pub(crate) fn gather(
        &self,
        membership: &Membership,
        deadline: Instant,
    ) -> Result<(), CollectiveError> {
        let key = |rank: u32| format!("{}/present/{rank}", membership.prefix);
        let lost = |failure: Failure| lost_host(membership, failure);
        self.set(&key(membership.rank), &[1]).map_err(lost)?;
        let mut missing = Vec::new();
        for rank in 0..membership.world_size {
            let left = deadline.saturating_duration_since(Instant::now());
            let limit = if missing.is_empty() { left } else { LAST_LOOK };
            match self.wait(&key(rank), limit) {
                Ok(()) => {}
                Err(failure) if failure.status == Status::Timeout => missing.push(rank),
                // Rank 0 misses them as well, and may be gone for that.
                Err(_) if !missing.is_empty() => break,
                Err(failure) => return Err(lost(failure)),
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        Err(CollectiveError::Timeout {
            operation: Operation::Connect,
            rank: membership.rank,
            after: membership.timeout,
            missing,
        })
    }

    /// Hands `value` of rank 0 to every rank.
    pub(crate) fn share<const N: usize>(
        &self,
        membership: &Membership,
        name: &str,
        value: Option<[u8; N]>,
        deadline: Instant,
    ) -> Result<[u8; N], CollectiveError> {
        let key = format!("{}/{name}", membership.prefix);
        let lost = |failure: Failure| lost_host(membership, failure);
        if let Some(value) = value {
            self.set(&key, &value).map_err(lost)?;
            return Ok(value);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        self.wait(&key, left).map_err(lost)?;
        let mut value = [0; N];
        let name = ffi::c_string(&key).map_err(lost)?;
        ffi::call(|reason| {
            // SAFETY: the pointers are valid for the call, and the length is the array's.
            unsafe {
                ffi::esp_store_get(self.as_ptr(), name.as_ptr(), value.as_mut_ptr(), N, reason)
            }
        })
        .map_err(lost)?;
        Ok(value)
    }

    fn set(&self, key: &str, value: &[u8]) -> Result<(), Failure> {
        let key = ffi::c_string(key)?;
        ffi::call(|reason| {
            // SAFETY: the pointers are valid for the call, and the length is the slice's.
            unsafe {
                ffi::esp_store_set(
                    self.as_ptr(),
                    key.as_ptr(),
                    value.as_ptr(),
                    value.len(),
                    reason,
                )
            }
        })
    }

    fn wait(&self, key: &str, limit: Duration) -> Result<(), Failure> {
        let key = ffi::c_string(key)?;
        ffi::call(|reason| {
            let limit = ffi::milliseconds(limit);
            // SAFETY: the pointers are valid for the call.
            unsafe { ffi::esp_store_wait(self.as_ptr(), key.as_ptr(), limit, reason) }
        })
    }
}

/// The failure of a call to the table: rank 0 is silent or gone.
fn lost_host(membership: &Membership, failure: Failure) -> CollectiveError {
    let (operation, rank) = (Operation::Connect, membership.rank);
    if failure.status == Status::Timeout {
        return CollectiveError::Timeout {
            operation,
            rank,
            after: membership.timeout,
            missing: vec![0],
        };
    }
    CollectiveError::PeerLost {
        operation,
        rank,
        peer: Peer::Rank(0),
        reason: failure.text.lines().next().unwrap_or_default().to_owned(),
    }
}

/// Host and port of `host:port`; an IPv6 address is in brackets.
fn split(address: &str) -> Option<(&str, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let host = host
        .strip_prefix('[')
        .map_or(Some(host), |rest| rest.strip_suffix(']'))?;
    let port = port.parse().ok().filter(|port| *port != 0)?;
    (!host.is_empty()).then_some((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_host_and_port() {
        assert_eq!(split("node-1:29500"), Some(("node-1", 29500)));
        assert_eq!(split("[::1]:5"), Some(("::1", 5)));
        for wrong in [
            "",
            "node-1",
            ":5",
            "node-1:",
            "node-1:0",
            "node-1:70000",
            "[::1:5",
        ] {
            assert_eq!(split(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn what_rank_0_shares_arrives() {
        let (host, port) = Rendezvous::host("127.0.0.1").unwrap();
        let limit = Duration::from_secs(20);
        let joined = Rendezvous::join(&format!("127.0.0.1:{port}"), limit).unwrap();
        let member = |rank| Membership {
            rank,
            world_size: 2,
            prefix: "job/1".to_owned(),
            host: "127.0.0.1".to_owned(),
            timeout: limit,
        };
        let deadline = Instant::now() + limit;
        host.share(&member(0), "id", Some([4, 2]), deadline)
            .unwrap();
        let seen = joined.share::<2>(&member(1), "id", None, deadline).unwrap();
        assert_eq!(seen, [4, 2]);
    }

    #[test]
    fn a_wrong_address_is_named() {
        let none = Rendezvous::join("nowhere", Duration::from_secs(1)).unwrap_err();
        assert_eq!(
            none.to_string(),
            "rendezvous at nowhere: not an address of the form host:port"
        );
        let foreign = Rendezvous::host("192.0.2.1").unwrap_err().to_string();
        assert!(foreign.starts_with("rendezvous at 192.0.2.1: cannot listen there"));
    }

    #[test]
    fn a_table_that_nobody_serves_is_given_up() {
        let port = {
            let free = TcpListener::bind("127.0.0.1:0").unwrap();
            free.local_addr().unwrap().port()
        };
        let address = format!("127.0.0.1:{port}");
        let error = Rendezvous::join(&address, Duration::from_millis(200)).unwrap_err();
        assert!(error.to_string().contains("nobody answered"), "{error}");
    }
}
