#include "bf16_attention.h"

#include "heads.h"
#include "softmax_rows.h"

#include <ATen/Parallel.h>
#include <ATen/native/CPUBlas.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

namespace talent::bf16_attention {

namespace {

using at::BFloat16;
using at::native::cpublas::brgemm;

// Queries in a block: scores of a block and what is derived from them stay in the cache of the second level.
constexpr int64_t BLOCK = 128;
// Widths of second operands are rounded up to whole tiles.
constexpr int64_t TILE = 32;

int64_t whole_tiles(int64_t n) { return (n + TILE - 1) / TILE * TILE; }

// Rows of bfloat16 in memory.
struct Rows {
  const BFloat16 *data;
  int64_t stride;
  const BFloat16 *row(int64_t index) const { return data + index * stride; }
};

Rows rows_of(const at::Tensor &xs, int64_t index) {
  const auto of_head = head(xs, index);
  return {of_head.const_data_ptr<BFloat16>(), of_head.stride(0)};
}

// Second operand x^T [d, n] of a product: pairs of rows side by side, [d / 2, width, 2], zeros from n on.
std::vector<BFloat16> packed_transposed(Rows x, int64_t n, int64_t d) {
  const int64_t width = whole_tiles(n);
  std::vector<BFloat16> packed(d * width, BFloat16(0.0f));
  // A cache line of results at a time.
  for (int64_t first = 0; first < n; first += 16)
    for (int64_t pair = 0; pair < d / 2; ++pair)
      for (int64_t i = first; i < std::min(first + 16, n); ++i)
        std::memcpy(&packed[(pair * width + i) * 2], x.row(i) + 2 * pair, 2 * sizeof(BFloat16));
  return packed;
}

// Second operand x [n, d]: pairs of rows side by side, [ceil(n / 2), d, 2], zeros behind the last row, up to whole tiles.
std::vector<BFloat16> packed_rows(Rows x, int64_t n, int64_t d) {
  std::vector<BFloat16> packed(whole_tiles(n) * d, BFloat16(0.0f));
  for (int64_t i = 0; i < n; ++i) {
    BFloat16 *row = packed.data() + i / 2 * d * 2 + i % 2;
    for (int64_t j = 0; j < d; ++j)
      row[2 * j] = x.row(i)[j];
  }
  return packed;
}

// x^T [d, rows] of a block, rows up to an even number.
void transpose(Rows x, int64_t first, int64_t n, int64_t d, int64_t stride, BFloat16 *result) {
  for (int64_t j = 0; j < d; ++j)
    std::fill(result + j * stride + n, result + (j + 1) * stride, BFloat16(0.0f));
  for (int64_t start = 0; start < n; start += TILE)
    for (int64_t j = 0; j < d; ++j)
      for (int64_t i = start; i < std::min(start + TILE, n); ++i)
        result[j * stride + i] = x.row(first + i)[j];
}

// Runs `body(index)` for every head of every sample, in parallel over heads.
template <typename Body> void for_heads(const at::Tensor &xs, const Body &body) {
  at::parallel_for(0, xs.size(0) * xs.size(1), 1, [&](int64_t begin, int64_t end) {
    for (int64_t index = begin; index < end; ++index)
      body(index);
    at::native::cpublas::brgemm_release();
  });
}

at::Tensor with_contiguous_rows(const at::Tensor &xs) { return xs.stride(3) == 1 ? xs : xs.contiguous(); }

// Sizes of one head.
struct Sizes {
  int64_t n, m, d, width;
  float scale;
  Sizes(const at::Tensor &q, const at::Tensor &k)
      : n(q.size(2)), m(k.size(2)), d(q.size(3)), width(whole_tiles(m)),
        scale(static_cast<float>(1.0 / std::sqrt(static_cast<double>(d)))) {}
};

// One head's forward pass. The weights stay unnormalised until they have been multiplied with the values.
void forward_head(Rows q, Rows k, Rows v, int64_t index, const Sizes &of, const Dropout &dropout, BFloat16 *mixed,
                  int64_t mixed_stride) {
  const auto keys = packed_transposed(k, of.m, of.d), values = packed_rows(v, of.m, of.d);
  std::vector<float> scores(BLOCK * of.width), sums(BLOCK), output(BLOCK * of.d);
  std::vector<BFloat16> weights(BLOCK * of.width, BFloat16(0.0f));
  for (int64_t first = 0; first < of.n; first += BLOCK) {
    const int64_t rows = std::min(BLOCK, of.n - first);
    brgemm(rows, of.width, of.d, q.stride, of.width, of.width, false, q.row(first), keys.data(), scores.data());
    for (int64_t row = 0; row < rows; ++row) {
      float *of_row = scores.data() + row * of.width;
      sums[row] = exponentials(of_row, of.m, of.scale);
      dropout.apply(of_row, of.m, row_number(index, first + row));
      to_bf16(of_row, weights.data() + row * of.width, of.m);
    }
    brgemm(rows, of.d, of.width, of.width, of.d, of.d, false, weights.data(), values.data(), output.data());
    for (int64_t row = 0; row < rows; ++row) {
      multiply(output.data() + row * of.d, of.d, 1.0f / sums[row]);
      to_bf16(output.data() + row * of.d, mixed + (first + row) * mixed_stride, of.d);
    }
  }
}

// x^T [d, width] in float32 as rows of bfloat16.
void write_transposed(const std::vector<float> &x, int64_t n, int64_t d, int64_t width, BFloat16 *result, int64_t stride) {
  for (int64_t first = 0; first < n; first += 16)
    for (int64_t j = 0; j < d; ++j)
      for (int64_t i = first; i < std::min(first + 16, n); ++i)
        result[i * stride + j] = BFloat16(x[j * width + i]);
}

// A head's operands and sums during the backward pass.
class BackwardHead {
public:
  BackwardHead(Rows q, Rows k, Rows v, Rows grad, int64_t index, const Sizes &of, const Dropout &dropout)
      : q(q), grad(grad), index(index), of(of), dropout(dropout), keys_t(packed_transposed(k, of.m, of.d)),
        keys(packed_rows(k, of.m, of.d)), values_t(packed_transposed(v, of.m, of.d)), weights(BLOCK * of.width),
        grad_weights(BLOCK * of.width), grad_q(BLOCK * of.d), grad_k_t(of.d * of.width),
        grad_v_t(of.d * of.width), kept(BLOCK * of.width), grad_scores(BLOCK * of.width), grad_scores_packed(BLOCK * of.width),
        block_t(of.d * BLOCK) {}

  void block(int64_t first, int64_t rows, BFloat16 *grad_queries, int64_t stride) {
    const int64_t even = rows + rows % 2;
    brgemm(rows, of.width, of.d, q.stride, of.width, of.width, false, q.row(first), keys_t.data(), weights.data());
    brgemm(rows, of.width, of.d, grad.stride, of.width, of.width, false, grad.row(first), values_t.data(),
           grad_weights.data());
    // A block of an odd number of rows has one of zeros behind it, since rows are packed in pairs.
    if (even > rows) {
      std::fill_n(weights.data() + rows * of.width, of.width, 0.0f);
      std::fill_n(grad_weights.data() + rows * of.width, of.width, 0.0f);
    }
    for (int64_t row = 0; row < rows; row += 2)
      pair_of_rows(first, row, std::min<int64_t>(2, rows - row));
    transpose(grad, first, rows, of.d, even, block_t.data());
    brgemm(of.d, of.width, even, even, of.width, of.width, true, block_t.data(), kept.data(), grad_v_t.data());
    transpose(q, first, rows, of.d, even, block_t.data());
    brgemm(of.d, of.width, even, even, of.width, of.width, true, block_t.data(), grad_scores_packed.data(), grad_k_t.data());
    brgemm(rows, of.d, of.width, of.width, of.d, of.d, false, grad_scores.data(), keys.data(), grad_q.data());
    for (int64_t row = 0; row < rows; ++row)
      to_bf16(grad_q.data() + row * of.d, grad_queries + (first + row) * stride, of.d);
  }

  const Rows q, grad;
  const int64_t index;
  const Sizes &of;
  const Dropout &dropout;
  std::vector<BFloat16> keys_t, keys, values_t;
  std::vector<float> weights, grad_weights, grad_q, grad_k_t, grad_v_t;
  std::vector<BFloat16> kept, grad_scores, grad_scores_packed, block_t;

private:
  // Softmax, dropout and the gradient of the scores for two rows of the block.
  void pair_of_rows(int64_t first, int64_t row, int64_t n) {
    float *p[2], *g[2];
    for (int64_t i = 0; i < 2; ++i) {
      p[i] = weights.data() + (row + i) * of.width;
      g[i] = grad_weights.data() + (row + i) * of.width;
    }
    for (int64_t i = 0; i < n; ++i) {
      multiply(p[i], of.m, 1.0f / exponentials(p[i], of.m, of.scale));
      std::fill(p[i] + of.m, p[i] + of.width, 0.0f);
    }
    BFloat16 *kept_pair = kept.data() + row * of.width;
    if (dropout.probability == 0.0) {
      interleave_bf16(p[0], p[1], kept_pair, of.width);
    } else {
      std::vector<float> dropped(2 * of.width);
      for (int64_t i = 0; i < 2; ++i)
        std::copy_n(p[i], of.width, dropped.data() + i * of.width);
      for (int64_t i = 0; i < n; ++i) {
        dropout.apply(dropped.data() + i * of.width, of.m, row_number(index, first + row + i));
        dropout.apply(g[i], of.m, row_number(index, first + row + i));
      }
      interleave_bf16(dropped.data(), dropped.data() + of.width, kept_pair, of.width);
    }
    for (int64_t i = 0; i < n; ++i) {
      softmax_gradient(p[i], g[i], of.width, of.scale);
      to_bf16(g[i], grad_scores.data() + (row + i) * of.width, of.width);
    }
    interleave_bf16(g[0], g[1], grad_scores_packed.data() + row * of.width, of.width);
  }
};

} // namespace

bool supports(const at::Tensor &q) {
  static const bool packs = at::native::cpublas::could_pack(at::kBFloat16);
  return packs && q.scalar_type() == at::kBFloat16 && q.size(3) % TILE == 0;
}

void forward(const at::Tensor &q, const at::Tensor &k, const at::Tensor &v, const Dropout &dropout, at::Tensor &mixed) {
  const auto queries = with_contiguous_rows(q), keys = with_contiguous_rows(k), values = with_contiguous_rows(v);
  const Sizes of(q, k);
  for_heads(q, [&](int64_t index) {
    auto result = head(mixed, index);
    forward_head(rows_of(queries, index), rows_of(keys, index), rows_of(values, index), index, of, dropout,
                 result.data_ptr<BFloat16>(), result.stride(0));
  });
}

void backward(const at::Tensor &q, const at::Tensor &k, const at::Tensor &v, const at::Tensor &grad_output,
              const Dropout &dropout, Gradients &gradients) {
  const auto queries = with_contiguous_rows(q), keys = with_contiguous_rows(k), values = with_contiguous_rows(v);
  const auto grads = with_contiguous_rows(grad_output);
  const Sizes of(q, k);
  for_heads(q, [&](int64_t index) {
    BackwardHead of_head(rows_of(queries, index), rows_of(keys, index), rows_of(values, index), rows_of(grads, index), index,
                         of, dropout);
    const auto result = [&](at::Tensor &xs) {
      auto rows = head(xs, index);
      return std::pair(rows.data_ptr<BFloat16>(), rows.stride(0));
    };
    const auto [grad_q, q_stride] = result(gradients.q);
    for (int64_t first = 0; first < of.n; first += BLOCK)
      of_head.block(first, std::min(BLOCK, of.n - first), grad_q, q_stride);
    const auto [grad_k, k_stride] = result(gradients.k);
    const auto [grad_v, v_stride] = result(gradients.v);
    write_transposed(of_head.grad_k_t, of.m, of.d, of.width, grad_k, k_stride);
    write_transposed(of_head.grad_v_t, of.m, of.d, of.width, grad_v, v_stride);
  });
}

} // namespace talent::bf16_attention
