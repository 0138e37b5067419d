// CUDA streams and events through c10's registry of devices, which needs no CUDA header. Without
// the CUDA part of libtorch every call fails with c10's own reason.
#include "guard.h"

#include <ATen/core/TensorBase.h>
#include <c10/core/Event.h>
#include <c10/core/Stream.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <dlfcn.h>

using c10::Device;
using c10::DeviceType;
using espalier::guarded;
using espalier::Reason;

namespace {

c10::impl::VirtualGuardImpl cuda() {
  return c10::impl::VirtualGuardImpl(DeviceType::CUDA);
}

Device device(int index) {
  return Device(DeviceType::CUDA, static_cast<c10::DeviceIndex>(index));
}

} // namespace

struct EspStream {
  c10::Stream stream;
};

struct EspEvent {
  c10::Event event;
};

extern "C" {

// Linkers drop libtorch_cuda, since nothing names its symbols: registering it is a side effect of
// loading it. The handle is never closed.
int esp_cuda_load(Reason reason) {
  return guarded(reason, [&]() -> int {
    if (dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_GLOBAL) != nullptr) {
      return espalier::kOk;
    }
    reason.write(dlerror());
    return espalier::kFailed;
  });
}

int esp_cuda_activate(int index, Reason reason) {
  return guarded(reason, [&] {
    cuda().setDevice(device(index));
    return espalier::kOk;
  });
}

int esp_stream_new(int index, EspStream** out, Reason reason) {
  return guarded(reason, [&] {
    *out = new EspStream{cuda().getStreamFromGlobalPool(device(index), /*isHighPriority=*/true)};
    return espalier::kOk;
  });
}

int esp_stream_current(int index, EspStream** out, Reason reason) {
  return guarded(reason, [&] {
    *out = new EspStream{cuda().getStream(device(index))};
    return espalier::kOk;
  });
}

int esp_stream_handle(const EspStream* stream, void** out, Reason reason) {
  return guarded(reason, [&] {
    *out = stream->stream.native_handle();
    return espalier::kOk;
  });
}

void esp_stream_free(EspStream* stream) {
  delete stream;
}

// Tells the caching allocator that the stream uses the tensor's memory, so that a tensor freed
// early is not handed out again before the stream is done with it.
int esp_stream_uses(const EspStream* stream, const at::TensorBase* tensor, Reason reason) {
  return guarded(reason, [&] {
    cuda().recordDataPtrOnStream(tensor->storage().data_ptr(), stream->stream);
    return espalier::kOk;
  });
}

int esp_event_record(const EspStream* stream, EspEvent** out, Reason reason) {
  return guarded(reason, [&] {
    c10::Event event(DeviceType::CUDA);
    event.record(stream->stream);
    *out = new EspEvent{std::move(event)};
    return espalier::kOk;
  });
}

int esp_event_block(const EspEvent* event, const EspStream* stream, Reason reason) {
  return guarded(reason, [&] {
    event->event.block(stream->stream);
    return espalier::kOk;
  });
}

int esp_event_query(const EspEvent* event, bool* done, Reason reason) {
  return guarded(reason, [&] {
    *done = event->event.query();
    return espalier::kOk;
  });
}

void esp_event_free(EspEvent* event) {
  delete event;
}

} // extern "C"
