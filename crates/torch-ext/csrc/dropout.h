// Dropout on the CPU with a counter-based random generator. Whether an entry is dropped depends only on the seed and its
// position, so the backward pass needs no stored mask, and the work can be split among threads in any way.
#pragma once
#include <cstdint>

namespace talent {

struct Dropout {
  double probability = 0.0;
  uint64_t seed = 0;

  // Draws the seed from libtorch's CPU generator.
  static Dropout draw(double probability);

  // Zeroes some of the n values of a row and scales up the others. Row numbers must be unique for each seed.
  void apply(float *values, int64_t n, uint64_t row) const;
};

} // namespace talent
