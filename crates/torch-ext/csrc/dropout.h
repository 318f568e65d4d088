// Dropout on the CPU from a counter-based generator: what is dropped is a function of a seed and a place, so the backward
// pass needs no mask and the work can be split among threads in any way.
#pragma once
#include <cstdint>

namespace talent {

struct Dropout {
  double probability = 0.0;
  uint64_t seed = 0;

  // The seed drawn from libtorch's CPU generator.
  static Dropout draw(double probability);

  // Drops from n values of a row, and scales the others up. The number of a row must be unique under a seed.
  void apply(float *values, int64_t n, uint64_t row) const;
};

} // namespace talent
