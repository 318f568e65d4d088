// Handles of the C interface. Every function that can fail returns nullptr on success, otherwise a malloc'ed message.
#pragma once
#include "guarded.h"

#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>

#include <cstdint>

namespace talent_c10d {

using talent::guarded;

struct StoreHandle {
  c10::intrusive_ptr<c10d::Store> store;
};

struct GroupHandle {
  c10::intrusive_ptr<c10d::Backend> backend;
};

struct WorkHandle {
  c10::intrusive_ptr<c10d::Work> work;
};

} // namespace talent_c10d
