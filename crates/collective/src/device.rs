//! CUDA streams and events of libtorch, through c10's registry of devices.

use std::ffi::{c_int, c_void};

use tch::Tensor;

use crate::ffi::{self, Failure, Owned};

/// Loads the CUDA part of libtorch into the process, where the linker left it out.
pub(crate) fn load_libtorch_cuda() -> Result<(), Failure> {
    ffi::call(|reason| {
        // SAFETY: loading a library of libtorch runs its registrations, which may run at any time.
        unsafe { ffi::esp_cuda_load(reason) }
    })
}

/// Makes the device the calling thread's current one.
pub(crate) fn activate(index: c_int) -> Result<(), Failure> {
    ffi::call(|reason| {
        // SAFETY: the shim checks that there is such a device.
        unsafe { ffi::esp_cuda_activate(index, reason) }
    })
}

/// A CUDA stream.
#[derive(Debug)]
pub(crate) struct Stream(Owned<ffi::Stream>);

impl Stream {
    /// A stream of its own, out of libtorch's pool.
    pub(crate) fn side(index: c_int) -> Result<Self, Failure> {
        ffi::create(|out, reason| {
            // SAFETY: the pointer is valid for the call.
            unsafe { ffi::esp_stream_new(index, out, reason) }
        })
        .map(Self)
    }

    /// The stream that libtorch's operations of this thread run on.
    pub(crate) fn current(index: c_int) -> Result<Self, Failure> {
        ffi::create(|out, reason| {
            // SAFETY: the pointer is valid for the call.
            unsafe { ffi::esp_stream_current(index, out, reason) }
        })
        .map(Self)
    }

    /// The `cudaStream_t`.
    pub(crate) fn handle(&self) -> Result<*mut c_void, Failure> {
        let mut handle = std::ptr::null_mut();
        ffi::call(|reason| {
            // SAFETY: the stream lives through the call, and the pointer is valid for it.
            unsafe { ffi::esp_stream_handle(self.0.as_ptr(), &raw mut handle, reason) }
        })?;
        Ok(handle)
    }

    /// Keeps the tensor's memory from being handed out again before this stream is done with it.
    pub(crate) fn uses(&self, tensor: &Tensor) -> Result<(), Failure> {
        ffi::call(|reason| {
            // SAFETY: stream and tensor live through the call.
            unsafe { ffi::esp_stream_uses(self.0.as_ptr(), tensor.as_ptr(), reason) }
        })
    }

    /// An event at the end of what the stream holds now.
    pub(crate) fn record(&self) -> Result<Event, Failure> {
        ffi::create(|out, reason| {
            // SAFETY: the stream lives through the call, and the pointer is valid for it.
            unsafe { ffi::esp_event_record(self.0.as_ptr(), out, reason) }
        })
        .map(Event)
    }

    /// Makes what comes next on this stream wait for the event.
    pub(crate) fn wait_for(&self, event: &Event) -> Result<(), Failure> {
        ffi::call(|reason| {
            // SAFETY: event and stream live through the call.
            unsafe { ffi::esp_event_block(event.0.as_ptr(), self.0.as_ptr(), reason) }
        })
    }
}

/// A point in a stream.
#[derive(Debug)]
pub(crate) struct Event(Owned<ffi::Event>);

impl Event {
    /// Whether the stream has come past the event.
    pub(crate) fn passed(&self) -> Result<bool, Failure> {
        let mut passed = false;
        ffi::call(|reason| {
            // SAFETY: the event lives through the call, and the pointer is valid for it.
            unsafe { ffi::esp_event_query(self.0.as_ptr(), &raw mut passed, reason) }
        })?;
        Ok(passed)
    }
}
