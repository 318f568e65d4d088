// Heads of attention by number: `index` counts the heads of all samples.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>

namespace talent {

// One head of one sample of [batch, heads, n, d], as a view [n, d].
inline at::Tensor head(const at::Tensor &xs, int64_t index) {
  return xs.select(0, index / xs.size(1)).select(0, index % xs.size(1));
}

// The number that dropout knows a query's row of attention weights by.
inline uint64_t row_number(int64_t index, int64_t query) {
  return static_cast<uint64_t>(index) << 32 | static_cast<uint64_t>(query);
}

} // namespace talent
