//! How a rank meets its peers.

use std::time::Duration;

use espalier_collective::{Collective, Gloo, Membership, Nccl, Rendezvous, Solo};
use tch::Device;

use super::{error::TrainError, link::Link, step::PEERS_DEADLINE};
use crate::ipc::{FromRank, Start};

/// How long the agents may take to tell where rank 0 is: all ranks prepare their data before.
const RENDEZVOUS_DEADLINE: Duration = Duration::from_secs(300);

/// Meets all ranks of the gang. Rank 0 hosts, and its agent tells the others where.
///
/// # Errors
/// A peer that does not come, or an engine that cannot run here.
pub(super) fn join(
    link: &Link,
    start: &Start,
    device: Device,
) -> Result<Box<dyn Collective>, TrainError> {
    if start.world_size == 1 {
        return Ok(Box::new(Solo::default()));
    }
    let rendezvous = if start.rank == 0 {
        let (rendezvous, port) = Rendezvous::host(&start.rendezvous_host)?;
        let address = format!("{}:{port}", bracketed(&start.rendezvous_host));
        link.send(&FromRank::RendezvousReady { address })?;
        rendezvous
    } else {
        let address = link.wait_rendezvous(RENDEZVOUS_DEADLINE)?;
        Rendezvous::join(&address, RENDEZVOUS_DEADLINE)?
    };
    let membership = Membership {
        rank: start.rank,
        world_size: start.world_size,
        prefix: format!("{}/{}", start.job_id, start.generation),
        host: start.rendezvous_host.clone(),
        timeout: PEERS_DEADLINE,
    };
    Ok(match device {
        Device::Cuda(index) => Box::new(Nccl::connect(rendezvous, membership, index as u32)?),
        _ => Box::new(Gloo::connect(rendezvous, membership)?),
    })
}

/// An IPv6 address in the brackets that set it apart from the port.
fn bracketed(host: &str) -> String {
    if host.contains(':') {
        format!("[{host}]")
    } else {
        host.to_owned()
    }
}
