//! How a rank meets its peers.

use std::{
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use espalier_collective::{Collective, CollectiveError, Gloo, Membership, Nccl, Rendezvous, Solo};
use tch::Device;

use super::{error::TrainError, link::Link, step::PEERS_DEADLINE};
use crate::ipc::{FromRank, Group, Start};

/// How long the agents may take to tell where rank 0 is: all ranks prepare their data before.
const RENDEZVOUS_DEADLINE: Duration = Duration::from_secs(300);
/// How much longer than its own limit a connection may take to fail.
const GRACE: Duration = Duration::from_secs(30);

/// Meets all ranks of the group; none if another group came in the meantime. Rank 0 hosts, and its
/// agent tells the others where.
///
/// # Errors
/// A peer that does not come, or an engine that cannot run here.
pub(super) fn join(
    link: &Link,
    start: &Start,
    group: &Group,
    device: Device,
) -> Result<Option<Arc<dyn Collective>>, TrainError> {
    if group.world_size == 1 {
        return Ok(Some(Arc::new(Solo::default())));
    }
    let generation = group.generation;
    let hosted = if group.rank == 0 {
        let (rendezvous, port) = Rendezvous::host(&start.rendezvous_host)?;
        let address = format!("{}:{port}", bracketed(&start.rendezvous_host));
        link.send(&FromRank::RendezvousReady {
            generation,
            address,
        })?;
        Meeting::Hosted(rendezvous)
    } else {
        match link.wait_rendezvous(generation, RENDEZVOUS_DEADLINE)? {
            Some(address) => Meeting::At(address),
            None => return Ok(None),
        }
    };
    let membership = Membership {
        rank: group.rank,
        world_size: group.world_size,
        prefix: format!("{}/{generation}", start.job_id),
        host: start.rendezvous_host.clone(),
        timeout: PEERS_DEADLINE,
    };
    connect(link, hosted, membership, device)
}

/// Leaves a group. On a thread, because the engine's own threads may stay in an operation until the
/// last of the lost peers' connections closes, at most for the group's timeout; nobody waits for
/// it.
pub(super) fn leave(world: Arc<dyn Collective>) {
    let left = thread::Builder::new()
        .name("left-group".to_owned())
        .spawn(move || drop(world));
    if let Err(error) = left {
        tracing::warn!(%error, "the last group was left without a thread");
    }
}

enum Meeting {
    Hosted(Rendezvous),
    At(String),
}

/// Connects on a thread, so that a newer group need not wait until this one has failed. A connection
/// that nobody waits for any more cannot be cancelled; it ends with its own limit.
fn connect(
    link: &Link,
    meeting: Meeting,
    membership: Membership,
    device: Device,
) -> Result<Option<Arc<dyn Collective>>, TrainError> {
    type Outcome = Result<Arc<dyn Collective>, CollectiveError>;
    let outcome: Arc<Mutex<Option<Outcome>>> = Arc::default();
    let (shared, wake) = (Arc::clone(&outcome), link.waker());
    thread::Builder::new()
        .name("join-group".to_owned())
        .spawn(move || {
            let connected = meet(meeting).and_then(|rendezvous| -> Outcome {
                Ok(match device {
                    Device::Cuda(index) => {
                        Arc::new(Nccl::connect(rendezvous, membership, index as u32)?)
                    }
                    _ => Arc::new(Gloo::connect(rendezvous, membership)?),
                })
            });
            *shared.lock().unwrap_or_else(PoisonError::into_inner) = Some(connected);
            wake();
        })
        .map_err(|error| TrainError::Machine(format!("cannot start a thread: {error}")))?;
    let take = || {
        outcome
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    };
    let limit = RENDEZVOUS_DEADLINE + PEERS_DEADLINE + GRACE;
    let connected = link.wait_unless_superseded("another group", limit, take)?;
    Ok(connected.transpose()?)
}

fn meet(meeting: Meeting) -> Result<Rendezvous, CollectiveError> {
    match meeting {
        Meeting::Hosted(rendezvous) => Ok(rendezvous),
        Meeting::At(address) => Rendezvous::join(&address, RENDEZVOUS_DEADLINE),
    }
}

/// An IPv6 address in the brackets that set it apart from the port.
fn bracketed(host: &str) -> String {
    if host.contains(':') {
        format!("[{host}]")
    } else {
        host.to_owned()
    }
}
