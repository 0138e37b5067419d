// The rendezvous store as the other files of the shim see it.
#pragma once

#include <torch/csrc/distributed/c10d/TCPStore.hpp>

struct EspStore {
  c10::intrusive_ptr<c10d::TCPStore> store;
};
