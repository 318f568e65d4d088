#include "waiting.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstdio>

namespace openmp_pool {

namespace {

constexpr std::chrono::milliseconds INTERVAL{50};

} // namespace

Waiting::Waiting() : file(open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC)) {}

Waiting::~Waiting() {
  if (file >= 0)
    close(file);
}

double Waiting::share(Clock::time_point now) {
  if (file < 0 || now - looked < INTERVAL)
    return 0.0;
  char text[96];
  const auto length = pread(file, text, sizeof text - 1, 0);
  if (length <= 0)
    return 0.0;
  text[length] = 0;
  unsigned long long ran, waited;
  if (std::sscanf(text, "%llu %llu", &ran, &waited) != 2)
    return 0.0;
  const bool first = looked == Clock::time_point{};
  const auto passed = std::chrono::duration_cast<std::chrono::nanoseconds>(now - looked).count();
  const double result = first ? 0.0 : static_cast<double>(waited - before) / static_cast<double>(passed);
  looked = now;
  before = waited;
  return result;
}

} // namespace openmp_pool
