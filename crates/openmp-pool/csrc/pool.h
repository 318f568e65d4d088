// Threads that share the parts of parallel regions.
#pragma once

#include "crowding.h"
#include "team.h"

#include <thread>
#include <vector>

namespace openmp_pool {

// Where a thread is: in a part of a region, or in none.
struct Place {
  Team *team = nullptr;
  unsigned part = 0;
  // Constructs that the part has come to.
  size_t constructs = 0;
  // The loop or the sections that it is in, and the chunk of an ordered loop.
  Share *share = nullptr;
  long chunk_first = 0, chunk_behind = 0;
  // Whether a region of several parts is around it.
  bool parallel = false;
};

extern constinit thread_local Place place;

using Body = void (*)(void *);

// The threads that help one thread with its regions.
//
// Parts belong to nobody: whoever has time takes the next. So a region does not wait for a thread that another program keeps off its
// processor, unless that thread is in the midst of a part. Therefore a crowded thread takes a part only if nobody else took it for a
// millisecond. A part that waits for others at a barrier is safe: each of the others has a thread that will take it.
class Pool {
public:
  ~Pool();

  // Runs `body` once for each of `size` parts.
  void run(Body body, void *data, unsigned size, int max_threads);

private:
  void work(unsigned index);
  // Whether the helper with this index leaves parts to others for now.
  bool rests(unsigned index) const;
  // Sleeps for a moment, and takes a part if there was one all the while.
  void rest();
  void help(unsigned part);
  // Takes the next part of the current region; false if there is none.
  bool take(unsigned *part);
  void run_part(unsigned part);

  // What a thread reads to help is in one cache line, what the helped thread waits for in another.
  alignas(64) Body body = nullptr;
  void *data = nullptr;
  // Number of the region (32 bits), its size and its next part (16 bits each).
  std::atomic<uint64_t> ticket{0};
  // Regions so far. Threads without work wait for it to change.
  std::atomic<uint32_t> regions{0};
  std::atomic<bool> stopping{false};
  // Until when the thread that is helped is crowded. One helper less then gives it a processor.
  std::atomic<Clock::time_point> owner_crowded{};
  alignas(64) std::atomic<uint32_t> finished{0};
  alignas(64) Team team;
  std::vector<std::thread> threads;
};

// Runs a region of one part on this thread.
void run_alone(Body body, void *data, int max_threads);

} // namespace openmp_pool
