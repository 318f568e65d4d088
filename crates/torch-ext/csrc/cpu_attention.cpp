// Softmax attention on the CPU. It is computed per head in blocks of queries, so that the scores of a block stay in the cache
// and the full score matrix is never stored. All computation is in float32, for every dtype of the operands, except where the
// processor multiplies matrices of bfloat16 (`bf16_attention.h`).

#include "bf16_attention.h"
#include "cpu_kernels.h"
#include "dropout.h"
#include "first_order.h"
#include "heads.h"
#include "product.h"
#include "softmax_rows.h"

#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/function.h>

#include <algorithm>
#include <cmath>
#include <vector>

namespace talent {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Approximate number of queries in a block.
constexpr int64_t BLOCK = 256;
// With fewer scores a head, libtorch's own attention serves.
constexpr int64_t LEAST_SCORES = 1 << 16;

float *row_of(at::Tensor &xs, int64_t row) { return xs.data_ptr<float>() + row * xs.size(1); }

// Applies dropout to the attention weights of one head, for queries from `first` on.
void drop(const Dropout &dropout, at::Tensor &weights, int64_t index, int64_t first) {
  for (int64_t row = 0; row < weights.size(0); ++row)
    dropout.apply(row_of(weights, row), weights.size(1), row_number(index, first + row));
}

at::Tensor as_float(const at::Tensor &xs) { return xs.to(at::kFloat).contiguous(); }

// Runs `body(index)` for every head of every sample, in parallel over heads.
template <typename Body> void for_heads(const at::Tensor &xs, const Body &body) {
  at::parallel_for(0, xs.size(0) * xs.size(1), 1, [&](int64_t begin, int64_t end) {
    at::AutoDispatchBelowADInplaceOrView guard;
    for (int64_t index = begin; index < end; ++index)
      body(index);
  });
}

// Splits n queries into blocks of about equal size and runs `body(first, rows)` for each.
template <typename Body> void for_blocks(int64_t n, const Body &body) {
  const int64_t blocks = std::max<int64_t>(1, (n + BLOCK / 2) / BLOCK), rows = (n + blocks - 1) / blocks;
  for (int64_t first = 0; first < n; first += rows)
    body(first, std::min(rows, n - first));
}

// Uninitialised tensor of the shape of `xs` [batch, heads, n, d], in the memory layout [batch, n, heads, d].
at::Tensor empty_by_position(const at::Tensor &xs) {
  return at::empty({xs.size(0), xs.size(2), xs.size(1), xs.size(3)}, xs.options()).transpose(1, 2);
}

// Factor of q k^T.
float score_scale(const at::Tensor &q) { return static_cast<float>(1.0 / std::sqrt(static_cast<double>(q.size(3)))); }

at::Tensor attend(const at::Tensor &q, const at::Tensor &k, const at::Tensor &v, const Dropout &dropout) {
  auto mixed = empty_by_position(q);
  if (bf16_attention::supports(q)) {
    bf16_attention::forward(q, k, v, dropout, mixed);
    return mixed;
  }
  const float scale = score_scale(q);
  for_heads(q, [&](int64_t index) {
    const auto queries = as_float(head(q, index)), keys = as_float(head(k, index)), values = as_float(head(v, index));
    for_blocks(q.size(2), [&](int64_t first, int64_t n) {
      // The weights stay unnormalised until they have been multiplied with the values.
      auto weights = product(queries.narrow(0, first, n), keys);
      std::vector<float> sums(n);
      for (int64_t row = 0; row < n; ++row)
        sums[row] = exponentials(row_of(weights, row), weights.size(1), scale);
      drop(dropout, weights, index, first);
      auto block = product(weights, values.t());
      for (int64_t row = 0; row < n; ++row)
        multiply(row_of(block, row), block.size(1), 1.0f / sums[row]);
      head(mixed, index).narrow(0, first, n).copy_(block);
    });
  });
  return mixed;
}

struct AttentionFunction : torch::autograd::Function<AttentionFunction> {
  static at::Tensor forward(AutogradContext *context, const at::Tensor &q, const at::Tensor &k, const at::Tensor &v,
                            const Dropout &dropout) {
    context->save_for_backward({q, k, v});
    context->saved_data["probability"] = dropout.probability;
    context->saved_data["seed"] = static_cast<int64_t>(dropout.seed);
    return attend(q, k, v, dropout);
  }

  static variable_list backward(AutogradContext *context, variable_list gradients) {
    refuse_second_derivatives();
    auto saved = context->get_saved_variables();
    const auto &q = saved[0], &k = saved[1], &v = saved[2], &grad_output = gradients[0];
    const Dropout dropout{context->saved_data["probability"].toDouble(),
                          static_cast<uint64_t>(context->saved_data["seed"].toInt())};
    auto grad_q = empty_by_position(q), grad_k = empty_by_position(k), grad_v = empty_by_position(v);
    if (bf16_attention::supports(q)) {
      bf16_attention::Gradients found{grad_q, grad_k, grad_v};
      bf16_attention::backward(q, k, v, grad_output, dropout, found);
      return {grad_q, grad_k, grad_v, {}};
    }
    const float scale = score_scale(q);
    for_heads(q, [&](int64_t index) {
      const auto queries = as_float(head(q, index)), keys = as_float(head(k, index)), values = as_float(head(v, index));
      auto grad_k_t = at::zeros({keys.size(1), keys.size(0)}, keys.options()), grad_v_t = at::zeros_like(grad_k_t); // d m
      for_blocks(q.size(2), [&](int64_t first, int64_t n) {
        const auto query_block = queries.narrow(0, first, n);
        const auto grad_block = as_float(head(grad_output, index).narrow(0, first, n));
        auto probabilities = product(query_block, keys);
        for (int64_t row = 0; row < n; ++row) {
          float *weights = row_of(probabilities, row);
          multiply(weights, keys.size(0), 1.0f / exponentials(weights, keys.size(0), scale));
        }
        auto kept = probabilities;
        if (dropout.probability > 0.0) {
          kept = probabilities.clone();
          drop(dropout, kept, index, first);
        }
        add_multiplied(grad_v_t, grad_block.t(), kept);
        auto grad_scores = product(grad_block, values);
        drop(dropout, grad_scores, index, first);
        for (int64_t row = 0; row < n; ++row)
          softmax_gradient(row_of(probabilities, row), row_of(grad_scores, row), keys.size(0), scale);
        head(grad_q, index).narrow(0, first, n).copy_(product(grad_scores, keys.t()));
        add_multiplied(grad_k_t, query_block.t(), grad_scores);
      });
      head(grad_k, index).copy_(grad_k_t.t());
      head(grad_v, index).copy_(grad_v_t.t());
    });
    return {grad_q, grad_k, grad_v, {}};
  }
};

bool supported(const at::Tensor &xs) {
  const bool known = xs.scalar_type() == at::kFloat || xs.scalar_type() == at::kBFloat16;
  return xs.dim() == 4 && xs.device().is_cpu() && known && xs.numel() > 0;
}

// Whether the shapes are [b, h, n, d], [b, h, m, d] and [b, h, m, d]. Others, mistakes included, are for libtorch.
bool fit_together(const at::Tensor &q, const at::Tensor &k, const at::Tensor &v) {
  return k.sizes() == v.sizes() && q.size(0) == k.size(0) && q.size(1) == k.size(1) && q.size(3) == k.size(3);
}

} // namespace

std::optional<at::Tensor> cpu::attention(const at::Tensor &q, const at::Tensor &k, const at::Tensor &v, double dropout) {
  const bool ours = supported(q) && supported(k) && supported(v) && q.scalar_type() == k.scalar_type() &&
                    k.scalar_type() == v.scalar_type() && fit_together(q, k, v) && has_onednn() && q.size(2) * k.size(2) >= LEAST_SCORES;
  if (!ours)
    return {};
  const auto dropped = Dropout::draw(dropout);
  const bool recorded = at::GradMode::is_enabled() && (q.requires_grad() || k.requires_grad() || v.requires_grad());
  return recorded ? AttentionFunction::apply(q, k, v, dropped) : attend(q, k, v, dropped);
}

} // namespace talent
