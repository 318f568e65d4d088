#include "measure.h"

#include <c10/core/impl/VirtualGuardImpl.h>

#include <dlfcn.h>

#include <atomic>

namespace talent {

namespace {

// Copy of `c10::cuda::SyncDebugMode`, whose header needs the CUDA headers.
enum class SyncDebugMode { DISABLED = 0, WARN, ERROR };

// Address of the mode: the static variable of the inline function `c10::cuda::warning_state()`, one per process. It is looked
// up by its symbol, because its header needs the CUDA headers, which a machine without a GPU lacks.
SyncDebugMode *sync_debug_mode() {
  return static_cast<SyncDebugMode *>(dlsym(RTLD_DEFAULT, "_ZZN3c104cuda13warning_stateEvE14warning_state_"));
}

// Counts libtorch's warnings about synchronising operations, and passes other warnings on.
struct Counter : c10::WarningHandler {
  void process(const c10::Warning &warning) override {
    if (warning.msg().find("synchronizing CUDA operation") != std::string::npos)
      ++n;
    else
      c10::WarningHandler::process(warning);
  }
  std::atomic<int64_t> n{0};
};

Counter &counter() {
  static Counter counter;
  return counter;
}

thread_local c10::WarningHandler *handler_before = nullptr;

} // namespace

void count_synchronisations() {
  auto *mode = sync_debug_mode();
  TORCH_CHECK(mode != nullptr, "this libtorch has no CUDA half, or hides where it keeps its synchronisation warnings");
  counter().n = 0;
  handler_before = c10::WarningUtils::get_warning_handler();
  c10::WarningUtils::set_warning_handler(&counter());
  *mode = SyncDebugMode::WARN;
}

int64_t synchronisations() {
  if (auto *mode = sync_debug_mode())
    *mode = SyncDebugMode::DISABLED;
  c10::WarningUtils::set_warning_handler(handler_before);
  return counter().n;
}

c10::Event mark(at::Device device) {
  c10::Event event(device.type(), c10::EventFlag::BACKEND_DEFAULT);
  event.record(c10::impl::VirtualGuardImpl(device.type()).getStream(device));
  return event;
}

} // namespace talent
