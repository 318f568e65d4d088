#include "c10d.h"

#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>

using namespace talent_c10d;

extern "C" char *talent_c10d_nccl(void *store, const char *prefix, int rank, int size, int64_t timeout_ms,
                                  void **result) {
  return guarded([&] {
    auto options = c10d::ProcessGroupNCCL::Options::create();
    options->timeout = std::chrono::milliseconds(timeout_ms);
    auto inner = c10::make_intrusive<c10d::PrefixStore>(prefix, static_cast<StoreHandle *>(store)->store);
    *result = new GroupHandle{c10::make_intrusive<c10d::ProcessGroupNCCL>(inner, rank, size, options)};
  });
}
