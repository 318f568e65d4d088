#include "c10d.h"

#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>

using namespace talent_c10d;

// interface: name of a network interface. address: address of this machine, used if `interface` is empty. If both are empty,
// the address of this machine's host name is used.
extern "C" char *talent_c10d_gloo(void *store, const char *prefix, int rank, int size, int64_t timeout_ms,
                                  const char *interface, const char *address, void **result) {
  return guarded([&] {
    auto options = c10d::ProcessGroupGloo::Options::create(std::chrono::milliseconds(timeout_ms));
    if (*interface != 0)
      options->devices.push_back(c10d::ProcessGroupGloo::createDeviceForInterface(interface));
    else if (*address != 0)
      options->devices.push_back(c10d::ProcessGroupGloo::createDeviceForHostname(address));
    else
      options->devices.push_back(c10d::ProcessGroupGloo::createDefaultDevice());
    auto inner = c10::make_intrusive<c10d::PrefixStore>(prefix, static_cast<StoreHandle *>(store)->store);
    *result = new GroupHandle{c10::make_intrusive<c10d::ProcessGroupGloo>(inner, rank, size, options)};
  });
}
