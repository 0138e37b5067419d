// c10d's ProcessGroupGloo with a deadline on every wait and waits that an abort wakes.
#include "guard.h"
#include "store.h"

#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/headeronly/version.h>

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

static_assert(
    TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR == 11,
    "the Gloo shim relies on the class layout of torch 2.11");

using c10d::ProcessGroupGloo;
using espalier::guarded;
using espalier::Reason;

namespace {

// What the waiters of a group sleep on: the end of their work or the group's abort.
struct Latch {
  std::mutex mutex;
  std::condition_variable changed;
  bool aborted = false;
};

// A work that the engine has finished reports its outcome within this time; it is only ever
// waited for after its future is complete.
constexpr std::chrono::seconds kOutcome{10};

} // namespace

struct EspGroup {
  std::shared_ptr<Latch> latch;
  // The engine numbers its works in the order of the calls, without a lock of its own.
  std::mutex launching;
  c10::intrusive_ptr<ProcessGroupGloo> group;
};

struct EspWork {
  std::shared_ptr<Latch> latch;
  std::shared_ptr<bool> done; // guarded by the latch's mutex
  c10::intrusive_ptr<c10d::Work> work;
};

namespace {

template <typename F>
int launch(EspGroup* group, EspWork** out, Reason reason, F&& start) {
  return guarded(reason, [&] {
    c10::intrusive_ptr<c10d::Work> work;
    {
      std::lock_guard<std::mutex> lock(group->launching);
      work = start(*group->group);
    }
    auto done = std::make_shared<bool>(false);
    work->getFuture()->addCallback(
        [latch = group->latch, done](c10::ivalue::Future&) {
          std::lock_guard<std::mutex> lock(latch->mutex);
          *done = true;
          latch->changed.notify_all();
        },
        /*uses_future=*/false);
    *out = new EspWork{group->latch, std::move(done), std::move(work)};
    return espalier::kOk;
  });
}

} // namespace

extern "C" {

int esp_gloo_connect(
    EspStore* store,
    const char* prefix,
    const char* host,
    int rank,
    int world_size,
    std::uint64_t connect_ms,
    std::uint64_t operation_ms,
    EspGroup** out,
    Reason reason) {
  return guarded(reason, [&] {
    auto options = ProcessGroupGloo::Options::create(std::chrono::milliseconds(connect_ms));
    options->devices.push_back(ProcessGroupGloo::createDeviceForHostname(host, /*lazyInit=*/false));
    auto table = c10::make_intrusive<c10d::PrefixStore>(std::string(prefix), store->store);
    auto group = c10::make_intrusive<ProcessGroupGloo>(table, rank, world_size, std::move(options));
    group->setTimeout(std::chrono::milliseconds(operation_ms));
    *out = new EspGroup{std::make_shared<Latch>(), {}, std::move(group)};
    return espalier::kOk;
  });
}

// Joins the engine's threads: they end with the works in flight.
void esp_gloo_free(EspGroup* group) {
  delete group;
}

void esp_gloo_abort(EspGroup* group) {
  std::lock_guard<std::mutex> lock(group->latch->mutex);
  group->latch->aborted = true;
  group->latch->changed.notify_all();
}

int esp_gloo_all_reduce_sum(
    EspGroup* group,
    const at::Tensor* tensor,
    EspWork** out,
    Reason reason) {
  return launch(group, out, reason, [&](ProcessGroupGloo& gloo) {
    std::vector<at::Tensor> tensors{*tensor};
    return gloo.allreduce(tensors);
  });
}

int esp_gloo_broadcast(
    EspGroup* group,
    const at::Tensor* tensor,
    int root,
    EspWork** out,
    Reason reason) {
  return launch(group, out, reason, [&](ProcessGroupGloo& gloo) {
    std::vector<at::Tensor> tensors{*tensor};
    c10d::BroadcastOptions options;
    options.rootRank = root;
    return gloo.broadcast(tensors, options);
  });
}

int esp_gloo_all_gather(
    EspGroup* group,
    const at::Tensor* input,
    const at::Tensor* output,
    EspWork** out,
    Reason reason) {
  return launch(group, out, reason, [&](ProcessGroupGloo& gloo) {
    std::vector<at::Tensor> from{*input};
    std::vector<std::vector<at::Tensor>> into{output->unbind(0)};
    return gloo.allgather(into, from);
  });
}

int esp_gloo_barrier(EspGroup* group, EspWork** out, Reason reason) {
  return launch(group, out, reason, [&](ProcessGroupGloo& gloo) { return gloo.barrier(); });
}

int esp_work_wait(EspWork* work, std::uint64_t timeout_ms, Reason reason) {
  return guarded(reason, [&]() -> int {
    {
      std::unique_lock<std::mutex> lock(work->latch->mutex);
      work->latch->changed.wait_for(lock, std::chrono::milliseconds(timeout_ms), [&] {
        return *work->done || work->latch->aborted;
      });
      if (!*work->done) {
        return work->latch->aborted ? espalier::kAborted : espalier::kTimeout;
      }
    }
    work->work->wait(kOutcome);
    return espalier::kOk;
  });
}

void esp_work_free(EspWork* work) {
  delete work;
}

} // extern "C"
