// Stands in for a Gloo header that the torch wheel leaves out: devices and buffers are only ever
// handled by pointer.
#pragma once

namespace gloo::transport {
class Device;

class UnboundBuffer {
 public:
  virtual ~UnboundBuffer() = default;
};
} // namespace gloo::transport
