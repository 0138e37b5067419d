// c10d's TCPStore: the table in which the ranks of a group find each other.
#include "store.h"

#include "guard.h"

#include <c10/util/Logging.h>

#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <string>
#include <vector>

using espalier::guarded;
using espalier::Reason;

namespace {

// c10d writes to the standard error what its exceptions say again, with backtraces. The variable of
// libtorch brings that back.
void quieten() {
  if (std::getenv("TORCH_CPP_LOG_LEVEL") != nullptr) {
    c10::initLogging();
  } else {
    FLAGS_caffe2_log_level = c10::GLOG_FATAL;
  }
}

EspStore* open(const char* host, const c10d::TCPStoreOptions& options) {
  static std::once_flag once;
  std::call_once(once, quieten);
  return new EspStore{c10::make_intrusive<c10d::TCPStore>(std::string(host), options)};
}

} // namespace

extern "C" {

// `listener` is a bound socket; the server owns it from here on.
int esp_store_host(
    const char* host,
    std::uint16_t port,
    int listener,
    std::uint64_t timeout_ms,
    EspStore** out,
    Reason reason) {
  return guarded(reason, [&] {
    c10d::TCPStoreOptions options;
    options.port = port;
    options.isServer = true;
    options.waitWorkers = false;
    options.timeout = std::chrono::milliseconds(timeout_ms);
    options.masterListenFd = listener;
    *out = open(host, options);
    return espalier::kOk;
  });
}

int esp_store_join(
    const char* host,
    std::uint16_t port,
    std::uint64_t timeout_ms,
    EspStore** out,
    Reason reason) {
  return guarded(reason, [&] {
    c10d::TCPStoreOptions options;
    options.port = port;
    options.waitWorkers = false;
    options.timeout = std::chrono::milliseconds(timeout_ms);
    *out = open(host, options);
    return espalier::kOk;
  });
}

void esp_store_free(EspStore* store) {
  delete store;
}

int esp_store_set(
    EspStore* store,
    const char* key,
    const std::uint8_t* bytes,
    std::size_t length,
    Reason reason) {
  return guarded(reason, [&] {
    store->store->set(key, std::vector<std::uint8_t>(bytes, bytes + length));
    return espalier::kOk;
  });
}

// The key must be there: `esp_store_wait` first.
int esp_store_get(
    EspStore* store,
    const char* key,
    std::uint8_t* bytes,
    std::size_t length,
    Reason reason) {
  return guarded(reason, [&] {
    const std::vector<std::uint8_t> value = store->store->get(key);
    TORCH_CHECK(value.size() == length, "the value of ", key, " has ", value.size(), " bytes");
    std::memcpy(bytes, value.data(), length);
    return espalier::kOk;
  });
}

int esp_store_wait(EspStore* store, const char* key, std::uint64_t timeout_ms, Reason reason) {
  return guarded(reason, [&]() -> int {
    try {
      store->store->wait({std::string(key)}, std::chrono::milliseconds(timeout_ms));
    } catch (const c10::DistStoreError& error) {
      reason.write(error.what_without_backtrace());
      return espalier::kTimeout;
    }
    return espalier::kOk;
  });
}

} // extern "C"
