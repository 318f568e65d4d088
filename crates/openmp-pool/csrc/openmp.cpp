// GNU's OpenMP interface, as far as libtorch uses it (`trainer/tests/openmp.rs` tests that it uses no more). A program that contains these symbols
// runs libtorch's parallel regions on them: the dynamic linker looks into the program first.

#include "pool.h"
#include "spin.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <thread>

using openmp_pool::place;
using openmp_pool::Share;

namespace {

int processors() {
  cpu_set_t set;
  return sched_getaffinity(0, sizeof set, &set) == 0 ? std::max(1, CPU_COUNT(&set)) : 1;
}

// Most threads of a region. What callers hear must be what they get: oneDNN cuts its work into as many parts.
constexpr int MOST_THREADS = 1024;

std::atomic<int> default_threads{0};
// Set by `omp_set_num_threads`; 0 for the default.
thread_local int wanted = 0;

int threads_by_default() {
  const char *text = std::getenv("OMP_NUM_THREADS");
  if (const int asked = text ? std::atoi(text) : 0; asked > 0)
    return std::min(asked, MOST_THREADS);
  const int set = default_threads.load();
  return std::min(set > 0 ? set : processors(), MOST_THREADS);
}

std::mutex unnamed, atomics;

std::atomic_ref<uintptr_t> lock_in(void **word) { return std::atomic_ref(*reinterpret_cast<uintptr_t *>(word)); }

template <typename SetUp> Share &next_share(const SetUp &set_up) { return place.team->share(place.constructs++, set_up); }

Share &loop(long start, long end, long increment, long chunk) {
  return next_share([&](Share &share) {
    share.next = share.turn = start;
    share.end = end;
    share.stride = std::max(chunk, 1L) * increment;
  });
}

// A region's constructs outside of any region: those of a region of one part.
void enter_default_region() {
  static thread_local openmp_pool::Team alone;
  if (place.team == nullptr) {
    alone.begin(1, 1);
    place.team = &alone;
  }
}

} // namespace

extern "C" {

// Number of threads of a region where neither the program nor `OMP_NUM_THREADS` says one. It also makes the linker take this file.
void openmp_pool_install(int threads) { default_threads = threads; }

int omp_get_num_procs() { return processors(); }
int omp_get_max_threads() {
  if (place.team != nullptr && place.parallel)
    return place.team->max_threads();
  return wanted > 0 ? wanted : threads_by_default();
}
void omp_set_num_threads(int n) { wanted = std::clamp(n, 1, MOST_THREADS); }
int omp_get_num_threads() { return place.team ? static_cast<int>(place.team->size()) : 1; }
int omp_get_thread_num() { return static_cast<int>(place.part); }
int omp_in_parallel() { return place.parallel; }

void GOMP_parallel(void (*body)(void *), void *data, unsigned threads, unsigned) {
  const int most = omp_get_max_threads();
  const unsigned size = std::min(threads > 0 ? threads : static_cast<unsigned>(most), static_cast<unsigned>(MOST_THREADS));
  if (size == 1 || place.parallel)
    return openmp_pool::run_alone(body, data, most);
  static thread_local openmp_pool::Pool pool;
  pool.run(body, data, size, most);
}

void GOMP_barrier() {
  if (place.team)
    place.team->barrier();
}

void GOMP_critical_start() { unnamed.lock(); }
void GOMP_critical_end() { unnamed.unlock(); }
void GOMP_atomic_start() { atomics.lock(); }
void GOMP_atomic_end() { atomics.unlock(); }
void GOMP_critical_name_start(void **word) {
  while (lock_in(word).exchange(1, std::memory_order_acquire) != 0)
    std::this_thread::yield();
}
void GOMP_critical_name_end(void **word) { lock_in(word).store(0, std::memory_order_release); }

bool GOMP_single_start() {
  enter_default_region();
  return !next_share([](Share &) {}).taken.exchange(true);
}

bool GOMP_loop_dynamic_start(long start, long end, long increment, long chunk, long *first, long *behind) {
  enter_default_region();
  place.share = &loop(start, end, increment, chunk);
  return place.share->take(first, behind);
}
bool GOMP_loop_dynamic_next(long *first, long *behind) { return place.share->take(first, behind); }
void GOMP_loop_end_nowait() {}
void GOMP_loop_end() { GOMP_barrier(); }

void GOMP_ordered_start() {
  while (place.share->turn.load(std::memory_order_acquire) != place.chunk_first)
    std::this_thread::yield();
}
void GOMP_ordered_end() {}

bool GOMP_loop_ordered_dynamic_start(long start, long end, long increment, long chunk, long *first, long *behind) {
  const bool some = GOMP_loop_dynamic_start(start, end, increment, chunk, first, behind);
  place.chunk_first = *first;
  place.chunk_behind = *behind;
  return some;
}
bool GOMP_loop_ordered_dynamic_next(long *first, long *behind) {
  // The chunk is done: the next one's turn, after those before it.
  GOMP_ordered_start();
  place.share->turn.store(place.chunk_behind, std::memory_order_release);
  if (!place.share->take(first, behind))
    return false;
  place.chunk_first = *first;
  place.chunk_behind = *behind;
  return true;
}

unsigned GOMP_sections_start(unsigned count) {
  long section, behind;
  return GOMP_loop_dynamic_start(1, static_cast<long>(count) + 1, 1, 1, &section, &behind) ? static_cast<unsigned>(section) : 0;
}
unsigned GOMP_sections_next() {
  long section, behind;
  return place.share->take(&section, &behind) ? static_cast<unsigned>(section) : 0;
}
void GOMP_sections_end_nowait() {}
}
