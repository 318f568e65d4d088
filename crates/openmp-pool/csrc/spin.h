// Waiting for another thread: busily at first, since a sleeping thread wakes too late for the next region. A crowded thread sleeps soon:
// a busy wait would use up its share of the processor before the region that it waits for begins.
#pragma once

#include <atomic>
#include <cstdint>

namespace openmp_pool {

// Waits until `word` is not `old` any more. With `OMP_WAIT_POLICY=passive` never busily.
void wait_for_change(const std::atomic<uint32_t> &word, uint32_t old);

} // namespace openmp_pool
