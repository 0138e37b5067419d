//! The engine for CUDA tensors: NCCL, loaded at run time.
//!
//! This engine compiles, links and refuses cleanly on machines without a GPU. It has not yet run on
//! one.

mod comm;
mod requirements;
mod watchdog;

use std::ffi::{c_int, c_void};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use cudarc::nccl::result::{self, NcclError, NcclStatus};
use cudarc::nccl::sys::{cudaStream_t, ncclComm_t, ncclDataType_t, ncclRedOp_t};
use tch::{Device, Kind, Tensor};

use self::comm::Comm;
use self::watchdog::Watchdog;
use crate::bounded::bounded;
use crate::check;
use crate::collective::{Collective, Membership};
use crate::device::{self, Event, Stream};
use crate::error::{CollectiveError, Operation};
use crate::ffi::Failure;
use crate::rendezvous::Rendezvous;
use crate::work::{Pending, Work};

pub use self::requirements::load_cuda;

/// Pause between two looks at an event that a wait is for.
const POLL: Duration = Duration::from_micros(50);

/// A group of ranks on CUDA tensors, one GPU each.
///
/// Operations run on a stream of their own, after what the calling thread's current stream held
/// when they were started and beside what it is given later. A wait that fails aborts the
/// communicator, which also ends the operations on the device.
#[derive(Debug)]
pub struct Nccl {
    // Before the communicator, so that nothing polls it at its end.
    _watchdog: Watchdog,
    comm: Arc<Comm>,
    side: Stream,
    // Operations are launched in one order on every rank.
    launching: Mutex<()>,
    device: c_int,
    membership: Membership,
    _rendezvous: Rendezvous,
}

impl Nccl {
    /// Meets all other ranks of the group on the CUDA device `device`, within the membership's
    /// timeout.
    ///
    /// # Errors
    /// [`CollectiveError::Unavailable`] on a machine without a driver, a CUDA build of libtorch, a
    /// GPU or NCCL; else as [`crate::Gloo::connect`].
    pub fn connect(
        rendezvous: Rendezvous,
        membership: Membership,
        device: u32,
    ) -> Result<Self, CollectiveError> {
        load_cuda()?;
        let (rank, limit) = (membership.rank, membership.timeout);
        let device = device.cast_signed();
        bounded(limit, move || Self::join(rendezvous, membership, device)).map_err(
            |unanswered| CollectiveError::Engine {
                operation: Operation::Connect,
                rank,
                reason: unanswered.to_string(),
            },
        )?
    }

    fn join(
        rendezvous: Rendezvous,
        membership: Membership,
        device: c_int,
    ) -> Result<Self, CollectiveError> {
        let rank = membership.rank;
        let deadline = Instant::now() + membership.timeout;
        let broken = |failure| engine(Operation::Connect, rank, failure);
        rendezvous.gather(&membership, deadline)?;
        let id = (rank == 0).then(comm::new_id).transpose()?;
        let id = rendezvous.share(&membership, "nccl", id, deadline)?;
        device::activate(device).map_err(broken)?;
        let side = Stream::side(device).map_err(broken)?;
        let left = deadline.saturating_duration_since(Instant::now());
        let comm = Arc::new(Comm::join(id, rank, membership.world_size, left)?);
        Ok(Self {
            _watchdog: Watchdog::start(Arc::clone(&comm), rank)?,
            comm,
            side,
            launching: Mutex::new(()),
            device,
            membership,
            _rendezvous: rendezvous,
        })
    }

    /// Launches `call` on the side stream, ordered after the current one.
    fn start<'t>(
        &self,
        operation: Operation,
        tensors: &[&Tensor],
        call: impl FnOnce(ncclComm_t, cudaStream_t) -> Result<NcclStatus, NcclError>,
    ) -> Result<Work<'t>, CollectiveError> {
        let rank = self.membership.rank;
        self.comm.health.check(operation, rank)?;
        let broken = |failure| self.comm.fail(engine(operation, rank, failure));
        let _order = self
            .launching
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        device::activate(self.device).map_err(broken)?;
        let current = Stream::current(self.device).map_err(broken)?;
        let ready = current.record().map_err(broken)?;
        self.side.wait_for(&ready).map_err(broken)?;
        for tensor in tensors {
            self.side.uses(tensor).map_err(broken)?;
        }
        let stream: cudaStream_t = self.side.handle().map_err(broken)?.cast();
        self.comm
            .launch(operation, self.membership.timeout, |comm| {
                call(comm, stream)
            })?;
        Ok(Work::pending(InFlight {
            end: self.side.record().map_err(broken)?,
            comm: Arc::clone(&self.comm),
            operation,
            rank,
            device: self.device,
        }))
    }

    fn cuda(&self) -> Option<Device> {
        // A device that was activated has a small index.
        usize::try_from(self.device).ok().map(Device::Cuda)
    }
}

/// An operation on the side stream.
struct InFlight {
    end: Event,
    comm: Arc<Comm>,
    operation: Operation,
    rank: u32,
    device: c_int,
}

impl Pending for InFlight {
    fn wait(self: Box<Self>, deadline: Duration) -> Result<(), CollectiveError> {
        let (operation, rank) = (self.operation, self.rank);
        let broken = |failure| self.comm.fail(engine(operation, rank, failure));
        let start = Instant::now();
        while !self.end.passed().map_err(broken)? {
            self.comm.health.check(operation, rank)?;
            if start.elapsed() >= deadline {
                return Err(self.comm.fail(CollectiveError::Timeout {
                    operation,
                    rank,
                    after: deadline,
                    missing: Vec::new(),
                }));
            }
            thread::sleep(POLL);
        }
        // An aborted operation also comes to its end.
        self.comm.health.check(operation, rank)?;
        let current = Stream::current(self.device).map_err(broken)?;
        current.wait_for(&self.end).map_err(broken)
    }
}

fn engine(operation: Operation, rank: u32, failure: Failure) -> CollectiveError {
    CollectiveError::Engine {
        operation,
        rank,
        reason: failure.text.lines().next().unwrap_or_default().to_owned(),
    }
}

/// Address, number of elements and kind of a tensor that passed `check::tensor`.
fn buffer(tensor: &Tensor) -> (*mut c_void, usize, ncclDataType_t) {
    let kind = match tensor.kind() {
        Kind::Double => ncclDataType_t::ncclFloat64,
        Kind::BFloat16 => ncclDataType_t::ncclBfloat16,
        _ => ncclDataType_t::ncclFloat32,
    };
    (tensor.data_ptr(), tensor.numel(), kind)
}

impl Collective for Nccl {
    fn rank(&self) -> u32 {
        self.membership.rank
    }

    fn world_size(&self) -> u32 {
        self.membership.world_size
    }

    fn all_reduce_sum<'t>(&self, tensor: &'t mut Tensor) -> Result<Work<'t>, CollectiveError> {
        let operation = Operation::AllReduce;
        check::tensor(tensor, self.cuda(), operation, self.rank())?;
        let (data, count, kind) = buffer(tensor);
        self.start(operation, &[tensor], |comm, stream| {
            let sum = ncclRedOp_t::ncclSum;
            // SAFETY: the buffer holds `count` elements of `kind`, and the allocator keeps it for
            // the stream until the operation is over.
            unsafe { result::all_reduce(data, data, count, kind, sum, comm, stream) }
        })
    }

    fn broadcast<'t>(
        &self,
        tensor: &'t mut Tensor,
        root: u32,
    ) -> Result<Work<'t>, CollectiveError> {
        let operation = Operation::Broadcast;
        check::root(root, self.world_size(), self.rank())?;
        check::tensor(tensor, self.cuda(), operation, self.rank())?;
        let (data, count, kind) = buffer(tensor);
        self.start(operation, &[tensor], |comm, stream| {
            let root = root.cast_signed();
            // SAFETY: as in `all_reduce_sum`.
            unsafe { result::broadcast(data, data, count, kind, root, comm, stream) }
        })
    }

    fn all_gather<'t>(
        &self,
        input: &'t Tensor,
        output: &'t mut Tensor,
    ) -> Result<Work<'t>, CollectiveError> {
        let operation = Operation::AllGather;
        check::gather(input, output, self.cuda(), self.world_size(), self.rank())?;
        let (from, count, kind) = buffer(input);
        let into = output.data_ptr();
        self.start(operation, &[input, output], |comm, stream| {
            // SAFETY: as in `all_reduce_sum`, with room for the input of every rank in the output.
            unsafe { result::all_gather(from, into, count, kind, comm, stream) }
        })
    }

    fn barrier(&self) -> Result<Work<'static>, CollectiveError> {
        // NCCL has none of its own: the sum of one number ends when every rank has brought its own.
        let operation = Operation::Barrier;
        let device = self.cuda().unwrap_or(Device::Cpu);
        let token = Tensor::f_zeros([1], (Kind::Float, device)).map_err(|error| {
            CollectiveError::Engine {
                operation,
                rank: self.rank(),
                reason: error.to_string(),
            }
        })?;
        let (data, count, kind) = buffer(&token);
        self.start(operation, &[&token], |comm, stream| {
            let sum = ncclRedOp_t::ncclSum;
            // SAFETY: as in `all_reduce_sum`; the allocator keeps the token's memory as well.
            unsafe { result::all_reduce(data, data, count, kind, sum, comm, stream) }
        })
    }

    fn abort(&self, reason: &str) {
        self.comm.abort(reason);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without a driver the engine must refuse; with one it must sum.
    #[test]
    fn a_group_of_one_sums_or_says_what_the_machine_lacks() {
        let (rendezvous, _) = Rendezvous::host("127.0.0.1").unwrap();
        let limit = Duration::from_secs(30);
        let membership = Membership {
            rank: 0,
            world_size: 1,
            prefix: "job/1".to_owned(),
            host: "127.0.0.1".to_owned(),
            timeout: limit,
        };
        let connected = Nccl::connect(rendezvous, membership, 0);
        // SAFETY: the check loads the driver's library and lets it go.
        if unsafe { cudarc::driver::sys::is_culib_present() } {
            let mut tensor = Tensor::ones([8], (Kind::Float, Device::Cuda(0)));
            let nccl = connected.unwrap();
            nccl.all_reduce_sum(&mut tensor)
                .unwrap()
                .wait(limit)
                .unwrap();
            assert_eq!(tensor.sum(Kind::Float).double_value(&[]), 8.0);
        } else {
            assert_eq!(
                connected.unwrap_err().to_string(),
                "the nccl engine cannot run here: no CUDA driver on this machine: libcuda.so is \
                 not in the library path"
            );
        }
    }
}
