//! The engine for CPU tensors: `c10d::ProcessGroupGloo` of libtorch.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tch::{Device, Tensor};

use crate::bounded::bounded;
use crate::check;
use crate::collective::{Collective, Membership};
use crate::error::{CollectiveError, Operation, Speaker};
use crate::ffi::{self, Failure, Owned, Status};
use crate::health::Health;
use crate::rendezvous::Rendezvous;
use crate::work::{Pending, Work};

/// A group of ranks on CPU tensors, connected all to all.
///
/// Gloo cannot cancel an operation: after an abort or a timeout its threads stay in the operation
/// until the peer's process ends or the membership's timeout passes. Dropping the group, and the
/// works not waited for, joins those threads and so blocks for as long.
#[derive(Debug)]
pub struct Gloo {
    group: Arc<Group>,
}

#[derive(Debug)]
struct Group {
    engine: Owned<ffi::Group>,
    health: Health,
    membership: Membership,
    // The peers may still be reading the table when this rank is done with it.
    _rendezvous: Rendezvous,
}

impl Gloo {
    /// Meets all other ranks of the group, within the membership's timeout.
    ///
    /// # Errors
    /// [`CollectiveError::Timeout`] naming the ranks that did not come,
    /// [`CollectiveError::PeerLost`] or [`CollectiveError::Engine`].
    pub fn connect(
        rendezvous: Rendezvous,
        membership: Membership,
    ) -> Result<Self, CollectiveError> {
        let (rank, limit) = (membership.rank, membership.timeout);
        let group = bounded(limit, move || Group::connect(rendezvous, membership)).map_err(
            |unanswered| CollectiveError::Engine {
                operation: Operation::Connect,
                rank,
                reason: unanswered.to_string(),
            },
        )??;
        Ok(Self {
            group: Arc::new(group),
        })
    }

    fn start<'t>(
        &self,
        operation: Operation,
        launch: impl FnOnce(*mut ffi::Group, *mut *mut ffi::Work, ffi::Reason) -> i32,
    ) -> Result<Work<'t>, CollectiveError> {
        let group = &self.group;
        group.health.check(operation, group.membership.rank)?;
        let work = ffi::create(|out, reason| launch(group.engine.as_ptr(), out, reason))
            .map_err(|failure| group.fail(operation, failure, group.membership.timeout))?;
        Ok(Work::pending(InFlight {
            work,
            operation,
            group: Arc::clone(group),
        }))
    }
}

impl Group {
    fn connect(rendezvous: Rendezvous, membership: Membership) -> Result<Self, CollectiveError> {
        let deadline = Instant::now() + membership.timeout;
        rendezvous.gather(&membership, deadline)?;
        let left = deadline.saturating_duration_since(Instant::now());
        let broken = |failure: Failure| {
            speaker(&membership, Operation::Connect).understand(&failure.text, membership.timeout)
        };
        let prefix = ffi::c_string(&membership.prefix).map_err(broken)?;
        let host = ffi::c_string(&membership.host).map_err(broken)?;
        let engine = ffi::create(|out, reason| {
            // SAFETY: the pointers are valid for the call, and the engine keeps its own reference
            // to the store.
            unsafe {
                ffi::esp_gloo_connect(
                    rendezvous.as_ptr(),
                    prefix.as_ptr(),
                    host.as_ptr(),
                    membership.rank.cast_signed(),
                    membership.world_size.cast_signed(),
                    ffi::milliseconds(left),
                    ffi::milliseconds(membership.timeout),
                    out,
                    reason,
                )
            }
        })
        .map_err(broken)?;
        Ok(Self {
            engine,
            health: Health::default(),
            membership,
            _rendezvous: rendezvous,
        })
    }

    /// Understands a failure and fails the group, which also wakes the waits in progress.
    fn fail(&self, operation: Operation, failure: Failure, limit: Duration) -> CollectiveError {
        let rank = self.membership.rank;
        let error = match (failure.status, self.health.failure()) {
            (Status::Aborted, Some(reason)) => CollectiveError::Aborted {
                operation,
                rank,
                reason: reason.to_owned(),
            },
            (Status::Timeout, _) => CollectiveError::Timeout {
                operation,
                rank,
                after: limit,
                missing: Vec::new(),
            },
            _ => speaker(&self.membership, operation)
                .understand(&failure.text, self.membership.timeout),
        };
        self.abort(&error.to_string());
        error
    }

    fn abort(&self, reason: &str) {
        if self.health.fail(reason) {
            // SAFETY: the pointer is valid while its owner lives.
            unsafe { ffi::esp_gloo_abort(self.engine.as_ptr()) }
        }
    }
}

fn speaker(membership: &Membership, operation: Operation) -> Speaker {
    Speaker {
        operation,
        rank: membership.rank,
        world_size: membership.world_size,
    }
}

/// An operation that Gloo's threads run.
struct InFlight {
    work: Owned<ffi::Work>,
    operation: Operation,
    group: Arc<Group>,
}

impl Pending for InFlight {
    fn wait(self: Box<Self>, deadline: Duration) -> Result<(), CollectiveError> {
        ffi::call(|reason| {
            let limit = ffi::milliseconds(deadline);
            // SAFETY: the pointer is valid while its owner lives.
            unsafe { ffi::esp_work_wait(self.work.as_ptr(), limit, reason) }
        })
        .map_err(|failure| self.group.fail(self.operation, failure, deadline))
    }
}

impl Collective for Gloo {
    fn rank(&self) -> u32 {
        self.group.membership.rank
    }

    fn world_size(&self) -> u32 {
        self.group.membership.world_size
    }

    fn all_reduce_sum<'t>(&self, tensor: &'t mut Tensor) -> Result<Work<'t>, CollectiveError> {
        check::tensor(tensor, Some(Device::Cpu), Operation::AllReduce, self.rank())?;
        self.start(Operation::AllReduce, |group, out, reason| {
            // SAFETY: the group and the tensor live through the call; the work has its own
            // reference to the tensor's memory.
            unsafe { ffi::esp_gloo_all_reduce_sum(group, tensor.as_ptr(), out, reason) }
        })
    }

    fn broadcast<'t>(
        &self,
        tensor: &'t mut Tensor,
        root: u32,
    ) -> Result<Work<'t>, CollectiveError> {
        check::root(root, self.world_size(), self.rank())?;
        check::tensor(tensor, Some(Device::Cpu), Operation::Broadcast, self.rank())?;
        self.start(Operation::Broadcast, |group, out, reason| {
            let root = root.cast_signed();
            // SAFETY: as in `all_reduce_sum`.
            unsafe { ffi::esp_gloo_broadcast(group, tensor.as_ptr(), root, out, reason) }
        })
    }

    fn all_gather<'t>(
        &self,
        input: &'t Tensor,
        output: &'t mut Tensor,
    ) -> Result<Work<'t>, CollectiveError> {
        let cpu = Some(Device::Cpu);
        check::gather(input, output, cpu, self.world_size(), self.rank())?;
        self.start(Operation::AllGather, |group, out, reason| {
            // SAFETY: as in `all_reduce_sum`, for both tensors.
            unsafe { ffi::esp_gloo_all_gather(group, input.as_ptr(), output.as_ptr(), out, reason) }
        })
    }

    fn barrier(&self) -> Result<Work<'static>, CollectiveError> {
        self.start(Operation::Barrier, |group, out, reason| {
            // SAFETY: the group lives through the call.
            unsafe { ffi::esp_gloo_barrier(group, out, reason) }
        })
    }

    fn abort(&self, reason: &str) {
        self.group.abort(reason);
    }
}
