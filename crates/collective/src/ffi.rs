//! The C interface of the shim, and owners for what it hands out.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr::NonNull;
use std::time::Duration;

use torch_sys::C_tensor;

/// Room for the reason of a failure; longer ones are cut.
const REASON_BYTES: usize = 2048;

/// Where a call writes why it failed.
#[repr(C)]
pub(crate) struct Reason {
    text: *mut c_char,
    capacity: usize,
}

/// How a call of the shim failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    Failed,
    Timeout,
    Aborted,
}

/// A failed call of the shim.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) status: Status,
    pub(crate) text: String,
}

/// Gives `body` a buffer for its reason and reads the status that it returns.
pub(crate) fn call(body: impl FnOnce(Reason) -> c_int) -> Result<(), Failure> {
    let mut buffer = [0u8; REASON_BYTES];
    let status = body(Reason {
        text: buffer.as_mut_ptr().cast(),
        capacity: buffer.len(),
    });
    let status = match status {
        0 => return Ok(()),
        2 => Status::Timeout,
        3 => Status::Aborted,
        _ => Status::Failed,
    };
    let text = CStr::from_bytes_until_nul(&buffer).unwrap_or_default();
    Err(Failure {
        status,
        text: text.to_string_lossy().into_owned(),
    })
}

/// As [`call`], for a call that hands out an object.
pub(crate) fn create<T: Opaque>(
    body: impl FnOnce(*mut *mut T, Reason) -> c_int,
) -> Result<Owned<T>, Failure> {
    let mut object = std::ptr::null_mut();
    call(|reason| body(&raw mut object, reason))?;
    NonNull::new(object).map(Owned).ok_or_else(|| Failure {
        status: Status::Failed,
        text: "the shim handed out nothing".to_owned(),
    })
}

/// A limit as the shim takes it. It lies in the range of the engine's own clocks.
pub(crate) fn milliseconds(limit: Duration) -> u64 {
    u64::try_from(limit.as_millis())
        .map_or(u64::from(u32::MAX), |ms| ms.clamp(1, u64::from(u32::MAX)))
}

/// A string as the shim takes it.
pub(crate) fn c_string(text: &str) -> Result<CString, Failure> {
    CString::new(text).map_err(|_| Failure {
        status: Status::Failed,
        text: format!("{text:?} has a zero byte in it"),
    })
}

/// A type of the shim behind a pointer.
///
/// # Safety
/// Its objects may move to another thread, and `free` takes back what a call of [`create`] made.
pub(crate) unsafe trait Opaque {
    /// # Safety
    /// `object` was handed out by the shim and is not used again.
    unsafe fn free(object: *mut Self);
}

/// The one owner of an object of the shim.
#[derive(Debug)]
pub(crate) struct Owned<T: Opaque>(NonNull<T>);

impl<T: Opaque> Owned<T> {
    /// Valid for as long as the owner.
    pub(crate) fn as_ptr(&self) -> *mut T {
        self.0.as_ptr()
    }
}

impl<T: Opaque> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: the pointer came from `create`, and its one owner ends here.
        unsafe { T::free(self.0.as_ptr()) }
    }
}

// SAFETY: `Opaque` promises that its objects may move between threads.
unsafe impl<T: Opaque> Send for Owned<T> {}

// SAFETY: c10d locks the store's one connection for each call.
unsafe impl Sync for Owned<Store> {}

// SAFETY: the shim locks launches, and the latch has a mutex.
unsafe impl Sync for Owned<Group> {}

// SAFETY: a stream is a value that is only read.
unsafe impl Sync for Owned<Stream> {}

macro_rules! opaque {
    ($($(#[$doc:meta])* $name:ident freed by $free:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Debug)]
        #[repr(C)]
        pub(crate) struct $name {
            opaque: [u8; 0],
        }

        // SAFETY: nothing in the object is bound to a thread, and the function is its `delete`.
        unsafe impl Opaque for $name {
            unsafe fn free(object: *mut Self) {
                // SAFETY: as this function's own contract.
                unsafe { $free(object) }
            }
        }
    )*};
}

opaque! {
    /// A client of a TCPStore, and its server on rank 0.
    Store freed by esp_store_free;
    /// A ProcessGroupGloo.
    Group freed by esp_gloo_free;
    /// An operation of a group, with references to its tensors.
    Work freed by esp_work_free;
    /// A CUDA stream of libtorch.
    Stream freed by esp_stream_free;
    /// A CUDA event, recorded once.
    Event freed by esp_event_free;
}

// Pointers are valid for the call; nothing but the objects' own references outlives it.
unsafe extern "C" {
    pub(crate) fn esp_store_host(
        host: *const c_char,
        port: u16,
        listener: c_int,
        timeout_ms: u64,
        out: *mut *mut Store,
        reason: Reason,
    ) -> c_int;
    pub(crate) fn esp_store_join(
        host: *const c_char,
        port: u16,
        timeout_ms: u64,
        out: *mut *mut Store,
        reason: Reason,
    ) -> c_int;
    fn esp_store_free(store: *mut Store);
    pub(crate) fn esp_store_set(
        store: *mut Store,
        key: *const c_char,
        bytes: *const u8,
        length: usize,
        reason: Reason,
    ) -> c_int;
    pub(crate) fn esp_store_get(
        store: *mut Store,
        key: *const c_char,
        bytes: *mut u8,
        length: usize,
        reason: Reason,
    ) -> c_int;
    pub(crate) fn esp_store_wait(
        store: *mut Store,
        key: *const c_char,
        timeout_ms: u64,
        reason: Reason,
    ) -> c_int;

    pub(crate) fn esp_gloo_connect(
        store: *mut Store,
        prefix: *const c_char,
        host: *const c_char,
        rank: c_int,
        world_size: c_int,
        connect_ms: u64,
        operation_ms: u64,
        out: *mut *mut Group,
        reason: Reason,
    ) -> c_int;
    fn esp_gloo_free(group: *mut Group);
    pub(crate) fn esp_gloo_abort(group: *mut Group);
    pub(crate) fn esp_gloo_all_reduce_sum(
        group: *mut Group,
        tensor: *const C_tensor,
        out: *mut *mut Work,
        reason: Reason,
    ) -> c_int;
    pub(crate) fn esp_gloo_broadcast(
        group: *mut Group,
        tensor: *const C_tensor,
        root: c_int,
        out: *mut *mut Work,
        reason: Reason,
    ) -> c_int;
    pub(crate) fn esp_gloo_all_gather(
        group: *mut Group,
        input: *const C_tensor,
        output: *const C_tensor,
        out: *mut *mut Work,
        reason: Reason,
    ) -> c_int;
    pub(crate) fn esp_gloo_barrier(group: *mut Group, out: *mut *mut Work, reason: Reason)
    -> c_int;
    pub(crate) fn esp_work_wait(work: *mut Work, timeout_ms: u64, reason: Reason) -> c_int;
    fn esp_work_free(work: *mut Work);

    pub(crate) fn esp_cuda_load(reason: Reason) -> c_int;
    pub(crate) fn esp_cuda_activate(index: c_int, reason: Reason) -> c_int;
    pub(crate) fn esp_stream_new(index: c_int, out: *mut *mut Stream, reason: Reason) -> c_int;
    pub(crate) fn esp_stream_current(index: c_int, out: *mut *mut Stream, reason: Reason) -> c_int;
    pub(crate) fn esp_stream_handle(
        stream: *const Stream,
        out: *mut *mut c_void,
        reason: Reason,
    ) -> c_int;
    fn esp_stream_free(stream: *mut Stream);
    pub(crate) fn esp_stream_uses(
        stream: *const Stream,
        tensor: *const C_tensor,
        reason: Reason,
    ) -> c_int;
    pub(crate) fn esp_event_record(
        stream: *const Stream,
        out: *mut *mut Event,
        reason: Reason,
    ) -> c_int;
    pub(crate) fn esp_event_block(
        event: *const Event,
        stream: *const Stream,
        reason: Reason,
    ) -> c_int;
    pub(crate) fn esp_event_query(event: *const Event, done: *mut bool, reason: Reason) -> c_int;
    fn esp_event_free(event: *mut Event);
}
