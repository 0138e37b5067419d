//! NCCL's communicator: non-blocking, polled with deadlines, aborted at most once.

use std::ffi::{CStr, c_char, c_int};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use cudarc::nccl::result::{self, NcclError, NcclStatus};
use cudarc::nccl::sys;

use crate::error::{CollectiveError, Operation};
use crate::health::Health;

/// Pause between two looks at a communicator that is still at it.
const POLL: Duration = Duration::from_micros(200);

/// How long an orderly end may take before the communicator is aborted instead.
const FINALIZE: Duration = Duration::from_secs(10);

/// Bytes of the id that a communicator's ranks share.
pub(super) const ID_BYTES: usize = 128;

#[derive(Debug)]
struct Raw(sys::ncclComm_t);

// SAFETY: NCCL lets any thread call a communicator, one at a time; `Comm` holds it in a mutex.
unsafe impl Send for Raw {}

/// A communicator. `None` once it was aborted: taking it out is what makes the abort happen once.
#[derive(Debug)]
pub(super) struct Comm {
    raw: Mutex<Option<Raw>>,
    pub(super) health: Health,
    rank: u32,
}

/// A new id, for rank 0 to share.
pub(super) fn new_id() -> Result<[u8; ID_BYTES], CollectiveError> {
    result::get_uniqueid()
        .map(|id| id.internal.map(c_char::cast_unsigned))
        .map_err(|error| engine(Operation::Connect, 0, &error))
}

impl Comm {
    /// Joins the other ranks of `id`, on the calling thread's current device.
    pub(super) fn join(
        id: [u8; ID_BYTES],
        rank: u32,
        world_size: u32,
        limit: Duration,
    ) -> Result<Self, CollectiveError> {
        let operation = Operation::Connect;
        let id = sys::ncclUniqueId {
            internal: id.map(u8::cast_signed),
        };
        let (ranks, own) = (world_size.cast_signed(), rank.cast_signed());
        let mut config = non_blocking();
        let mut raw = std::ptr::null_mut();
        // SAFETY: both pointers are valid for the call, and the config is of the size it states.
        unsafe { result::comm_init_rank_config(&raw mut raw, ranks, id, own, &raw mut config) }
            .map_err(|error| engine(operation, rank, &error))?;
        let comm = Self {
            raw: Mutex::new(Some(Raw(raw))),
            health: Health::default(),
            rank,
        };
        comm.settle(operation, limit)?;
        Ok(comm)
    }

    /// Runs one call on the communicator and waits until it is launched. A failure aborts.
    pub(super) fn launch(
        &self,
        operation: Operation,
        limit: Duration,
        call: impl FnOnce(sys::ncclComm_t) -> Result<NcclStatus, NcclError>,
    ) -> Result<(), CollectiveError> {
        let launched = {
            let raw = self.lock();
            let Some(raw) = raw.as_ref() else {
                return self.health.check(operation, self.rank);
            };
            call(raw.0)
        };
        launched.map_err(|error| self.fail(engine(operation, self.rank, &error)))?;
        self.settle(operation, limit)
    }

    /// Waits until the communicator has nothing under way on the host. A failure aborts.
    fn settle(&self, operation: Operation, limit: Duration) -> Result<(), CollectiveError> {
        let start = Instant::now();
        loop {
            match self.poll(operation)? {
                NcclStatus::InProgress if start.elapsed() < limit => thread::sleep(POLL),
                NcclStatus::InProgress => {
                    return Err(self.fail(CollectiveError::Timeout {
                        operation,
                        rank: self.rank,
                        after: limit,
                        missing: Vec::new(),
                    }));
                }
                NcclStatus::Success | NcclStatus::NumResults => return Ok(()),
            }
        }
    }

    /// Asks for errors of the communicator's own threads. A failure aborts.
    pub(super) fn poll(&self, operation: Operation) -> Result<NcclStatus, CollectiveError> {
        self.health.check(operation, self.rank)?;
        let state = {
            let raw = self.lock();
            let Some(raw) = raw.as_ref() else {
                return Ok(NcclStatus::Success);
            };
            let mut state = sys::ncclResult_t::ncclSuccess;
            // SAFETY: the communicator is alive while it is in the mutex, and the pointer is valid
            // for the call.
            unsafe { sys::ncclCommGetAsyncError(raw.0, &raw mut state) }
                .result()
                .and_then(|_| state.result())
        };
        state.map_err(|error| self.fail(engine(operation, self.rank, &error)))
    }

    /// Aborts for `error`, and hands it back.
    pub(super) fn fail(&self, error: CollectiveError) -> CollectiveError {
        self.abort(&error.to_string());
        error
    }

    /// Ends the communicator's operations on the device, once.
    pub(super) fn abort(&self, reason: &str) {
        self.health.fail(reason);
        if let Some(raw) = self.lock().take() {
            // SAFETY: taken out of the mutex, the communicator is used here for the last time.
            if let Err(error) = unsafe { result::comm_abort(raw.0) } {
                tracing::warn!(rank = self.rank, error = describe(&error), "abort failed");
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Raw>> {
        self.raw.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Comm {
    fn drop(&mut self) {
        let finalized = self.launch(Operation::Finalize, FINALIZE, |comm| {
            // SAFETY: the communicator is alive while it is in the mutex.
            unsafe { result::comm_finalize(comm) }
        });
        if let (Ok(()), Some(raw)) = (finalized, self.lock().take()) {
            // SAFETY: taken out of the mutex, the communicator is used here for the last time.
            if let Err(error) = unsafe { result::comm_destroy(raw.0) } {
                tracing::warn!(rank = self.rank, error = describe(&error), "destroy failed");
            }
        }
    }
}

/// What NCCL's header calls `NCCL_CONFIG_INITIALIZER`, with `blocking` off.
fn non_blocking() -> sys::ncclConfig_t {
    const UNSET: c_int = c_int::MIN;
    sys::ncclConfig_t {
        size: size_of::<sys::ncclConfig_t>(),
        magic: 0xcafe_beef,
        version: 22_800,
        blocking: 0,
        cgaClusterSize: UNSET,
        minCTAs: UNSET,
        maxCTAs: UNSET,
        netName: std::ptr::null(),
        splitShare: UNSET,
        trafficClass: UNSET,
        commName: std::ptr::null(),
        collnetEnable: UNSET,
        CTAPolicy: UNSET,
        shrinkShare: UNSET,
        nvlsCTAs: UNSET,
        nChannelsPerNetPeer: UNSET,
        nvlinkCentricSched: UNSET,
    }
}

fn engine(operation: Operation, rank: u32, error: &NcclError) -> CollectiveError {
    CollectiveError::Engine {
        operation,
        rank,
        reason: describe(error),
    }
}

fn describe(error: &NcclError) -> String {
    // SAFETY: the function takes any code and returns a string of static life.
    let text = unsafe { CStr::from_ptr(sys::ncclGetErrorString(error.0)) };
    format!("{} ({:?})", text.to_string_lossy(), error.0)
}
