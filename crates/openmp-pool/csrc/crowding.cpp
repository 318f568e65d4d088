#include "crowding.h"

#include <algorithm>

namespace openmp_pool {

namespace {

using namespace std::chrono_literals;

// Beside a program that wants one of two processors a thread waits for a third of its time and more, alone for a hundredth.
constexpr double SHARE = 0.25;
// How long a finding counts. If the thread is crowded again soon after, it counts twice as long as the one before.
constexpr Clock::duration SHORTEST = 200ms, LONGEST = 5s;

struct Finding {
  Waiting waiting;
  Clock::time_point until{};
  Clock::duration length = SHORTEST;
};

Finding &finding() {
  static thread_local Finding finding;
  return finding;
}

} // namespace

Clock::time_point crowded_until() { return finding().until; }

void look(Clock::time_point now) {
  auto &last = finding();
  if (now < last.until || last.waiting.share(now) <= SHARE)
    return;
  last.length = now - last.until < last.length ? std::min(2 * last.length, LONGEST) : SHORTEST;
  last.until = now + last.length;
}

} // namespace openmp_pool
