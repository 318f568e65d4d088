#include "spin.h"

#include "crowding.h"

#include <strings.h>

#include <cstdlib>

namespace openmp_pool {

namespace {

using namespace std::chrono_literals;

// As long as the serial work between two regions of a training step usually takes.
constexpr auto LONGEST_SPIN = 2000us;
// About as long as it takes to wake a thread.
constexpr auto CROWDED_SPIN = 20us;

// Whether waiting threads may be busy at all.
bool may_spin() {
  static const bool may = [] {
    const char *policy = std::getenv("OMP_WAIT_POLICY");
    return policy == nullptr || strcasecmp(policy, "passive") != 0;
  }();
  return may;
}

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

} // namespace

void wait_for_change(const std::atomic<uint32_t> &word, uint32_t old) {
  const auto start = Clock::now();
  while (may_spin()) {
    for (int i = 0; i < 64; ++i) {
      if (word.load(std::memory_order_acquire) != old)
        return;
      pause();
    }
    const auto now = Clock::now();
    look(now);
    if (now - start > (now < crowded_until() ? CROWDED_SPIN : LONGEST_SPIN))
      break;
  }
  while (word.load(std::memory_order_acquire) == old)
    word.wait(old, std::memory_order_acquire);
}

} // namespace openmp_pool
