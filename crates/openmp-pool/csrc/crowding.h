// Whether other programs keep a thread off its processor.
#pragma once

#include "waiting.h"

#include <chrono>

namespace openmp_pool {

using Clock = std::chrono::steady_clock;

// Until when the calling thread counts as crowded: lately it was ready to run and did not for more than a quarter of its time. Another program
// then has work for the processor.
Clock::time_point crowded_until();

// Looks, now and then, how the calling thread fares.
void look(Clock::time_point now);

} // namespace openmp_pool
