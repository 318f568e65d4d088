// A parallel region while it runs: its parts, barrier and work-sharing constructs.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <mutex>

namespace openmp_pool {

// A work-sharing construct (`single`, `sections`, a loop with dynamic chunks) that all parts of a region pass.
struct Share {
  std::atomic<bool> taken{false};
  // First iteration that nobody has, and the iteration behind the last.
  std::atomic<long> next{0};
  long end = 0;
  // Iterations of a chunk times their increment.
  long stride = 1;
  // First iteration of the chunk whose turn it is in `ordered`.
  std::atomic<long> turn{0};

  // Takes a chunk; false if none is left.
  bool take(long *first, long *behind);
};

class Team {
public:
  // A region of `size` parts in which `omp_get_max_threads` is `max_threads`.
  void begin(unsigned size, int max_threads);

  unsigned size() const { return parts; }
  int max_threads() const { return threads; }

  // Waits until every part has come here.
  void barrier();

  // The construct number `index` of the region, counted by each part for itself; the first part to come sets it up.
  template <typename SetUp> Share &share(size_t index, const SetUp &set_up) {
    const std::lock_guard lock(mutex);
    while (shares.size() <= index)
      set_up(shares.emplace_back());
    return shares[index];
  }

private:
  unsigned parts = 1;
  int threads = 1;
  std::atomic<uint32_t> arrived{0}, phase{0};
  std::mutex mutex;
  std::deque<Share> shares;
};

} // namespace openmp_pool
