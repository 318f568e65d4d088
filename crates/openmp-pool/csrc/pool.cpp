#include "pool.h"

#include "spin.h"

namespace openmp_pool {

constinit thread_local Place place;

namespace {

// How long a crowded thread leaves a part to others.
constexpr std::chrono::milliseconds REST{1};

constexpr uint64_t numbered(uint64_t region, uint64_t size, uint64_t next) { return region << 32 | size << 16 | next; }

// Whether the region of this ticket has parts that nobody took.
constexpr bool is_open(uint64_t ticket) { return static_cast<uint16_t>(ticket) < static_cast<uint16_t>(ticket >> 16); }

// Restores the thread's place.
struct InPart {
  InPart(Team &team, unsigned part) : before(place) {
    place = Place{&team, part};
    place.parallel = before.parallel || team.size() > 1;
  }
  ~InPart() { place = before; }
  const Place before;
};

} // namespace

Pool::~Pool() {
  stopping = true;
  regions.fetch_add(1);
  regions.notify_all();
  for (auto &thread : threads)
    thread.join();
}

bool Pool::take(unsigned *part) {
  uint64_t now = ticket.load(std::memory_order_acquire);
  for (;;) {
    if (!is_open(now))
      return false;
    if (ticket.compare_exchange_weak(now, now + 1, std::memory_order_acq_rel)) {
      *part = static_cast<uint16_t>(now);
      return true;
    }
  }
}

void Pool::run_part(unsigned part) {
  const InPart here(team, part);
  body(data);
}

void Pool::help(unsigned part) {
  run_part(part);
  finished.fetch_add(1, std::memory_order_release);
  finished.notify_one();
}

bool Pool::rests(unsigned index) const {
  const auto now = Clock::now();
  return now < crowded_until() || (index == 0 && now < owner_crowded.load(std::memory_order_relaxed));
}

void Pool::rest() {
  const uint64_t before = ticket.load(std::memory_order_acquire);
  std::this_thread::sleep_for(REST);
  const uint64_t now = ticket.load(std::memory_order_acquire);
  unsigned part;
  if (is_open(before) && before >> 32 == now >> 32 && take(&part))
    help(part);
}

void Pool::work(unsigned index) {
  while (!stopping) {
    if (rests(index)) {
      rest();
      continue;
    }
    const uint32_t seen = regions.load(std::memory_order_acquire);
    unsigned part;
    while (take(&part))
      help(part);
    if (!stopping)
      wait_for_change(regions, seen);
  }
}

void Pool::run(Body region_body, void *region_data, unsigned size, int max_threads) {
  while (threads.size() + 1 < size)
    threads.emplace_back([this, index = static_cast<unsigned>(threads.size())] { work(index); });
  team.begin(size, max_threads);
  body = region_body;
  data = region_data;
  finished.store(0, std::memory_order_relaxed);
  const uint32_t region = regions.load(std::memory_order_relaxed) + 1;
  ticket.store(numbered(region, size, 1), std::memory_order_release);
  regions.store(region, std::memory_order_seq_cst);
  regions.notify_all();
  unsigned own = 1;
  run_part(0);
  for (unsigned part; take(&part); ++own)
    run_part(part);
  for (uint32_t others; (others = finished.load(std::memory_order_acquire)) + own < size;)
    wait_for_change(finished, others);
  look(Clock::now());
  owner_crowded.store(crowded_until(), std::memory_order_relaxed);
}

void run_alone(Body body, void *data, int max_threads) {
  Team team;
  team.begin(1, max_threads);
  const InPart here(team, 0);
  body(data);
}

} // namespace openmp_pool
