// What every entry point of the shim shares: no C++ exception crosses into Rust. A call returns a
// status, and on failure writes its reason into the caller's buffer.
#pragma once

#include <c10/util/Exception.h>

#include <cstddef>
#include <cstring>
#include <exception>

namespace espalier {

enum Status : int { kOk = 0, kFailed = 1, kTimeout = 2, kAborted = 3 };

struct Reason {
  char* text;
  std::size_t capacity;

  void write(const char* what) const noexcept {
    if (capacity == 0) {
      return;
    }
    std::strncpy(text, what, capacity - 1);
    text[capacity - 1] = '\0';
  }
};

template <typename F>
int guarded(Reason reason, F&& body) noexcept {
  try {
    return body();
  } catch (const c10::Error& error) {
    reason.write(error.what_without_backtrace());
  } catch (const std::exception& error) {
    reason.write(error.what());
  } catch (...) {
    reason.write("an exception of unknown type");
  }
  return kFailed;
}

} // namespace espalier
