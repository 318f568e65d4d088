#include "team.h"

#include "spin.h"

#include <algorithm>

namespace openmp_pool {

bool Share::take(long *first, long *behind) {
  const long begin = next.fetch_add(stride, std::memory_order_relaxed);
  if (stride > 0 ? begin >= end : begin <= end)
    return false;
  *first = begin;
  *behind = stride > 0 ? std::min(begin + stride, end) : std::max(begin + stride, end);
  return true;
}

void Team::begin(unsigned size, int max_threads) {
  parts = size;
  threads = max_threads;
  shares.clear();
}

void Team::barrier() {
  if (parts == 1)
    return;
  const uint32_t before = phase.load(std::memory_order_relaxed);
  if (arrived.fetch_add(1, std::memory_order_acq_rel) + 1 < parts)
    return wait_for_change(phase, before);
  arrived.store(0, std::memory_order_relaxed);
  phase.store(before + 1, std::memory_order_release);
  phase.notify_all();
}

} // namespace openmp_pool
