// How long a thread is kept off its processors.
#pragma once

#include <chrono>

namespace openmp_pool {

// How long the calling thread was ready to run and did not, as Linux counts it.
class Waiting {
public:
  using Clock = std::chrono::steady_clock;

  Waiting();
  ~Waiting();
  Waiting(const Waiting &) = delete;

  // Its share of the time since the last answer; 0 where that is too short ago or Linux does not count.
  double share(Clock::time_point now);

private:
  const int file;
  Clock::time_point looked{};
  unsigned long long before = 0;
};

} // namespace openmp_pool
