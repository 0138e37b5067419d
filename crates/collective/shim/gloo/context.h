// Stands in for a Gloo header that the torch wheel leaves out. c10d's header handles contexts by
// pointer; the one member is named by an inline function that this crate calls through its vtable.
#pragma once

#include <chrono>

namespace gloo {
class Context {
 public:
  void setTimeout(std::chrono::milliseconds timeout);
};
} // namespace gloo
