// Softmax attention on the CPU, by heads and by blocks of queries, so that a block's scores stay in the cache and no
// matrix of all scores is ever held. In float32, whatever the operands' dtype.

#include "dropout.h"
#include "layers.h"
#include "product.h"

#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/function.h>

#include <algorithm>
#include <cmath>

namespace talent {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Queries whose scores are in memory at once, about.
constexpr int64_t BLOCK = 512;

// Drops from the weights of queries `first`... of a head.
void drop(const Dropout &dropout, at::Tensor &weights, int64_t index, int64_t first) {
  for (int64_t row = 0; row < weights.size(0); ++row)
    dropout.apply(weights.data_ptr<float>() + row * weights.size(1), weights.size(1),
                  static_cast<uint64_t>(index) << 32 | static_cast<uint64_t>(first + row));
}

// One head of one sample of [batch, heads, n, d]: a view [n, d].
at::Tensor head(const at::Tensor &xs, int64_t index) {
  return xs.select(0, index / xs.size(1)).select(0, index % xs.size(1));
}

at::Tensor wide(const at::Tensor &xs) { return xs.to(at::kFloat).contiguous(); }

// softmax(q k^T), [rows, m].
at::Tensor weights(const at::Tensor &q, const at::Tensor &k) {
  auto scores = product(q, k);
  at::_softmax_out(scores, scores, -1, false);
  return scores;
}

// Runs `body(index)` for every head of every sample, one head to a thread.
template <typename Body> void for_heads(const at::Tensor &xs, const Body &body) {
  at::parallel_for(0, xs.size(0) * xs.size(1), 1, [&](int64_t begin, int64_t end) {
    at::AutoDispatchBelowADInplaceOrView guard;
    for (int64_t index = begin; index < end; ++index)
      body(index);
  });
}

// Runs `body(first, rows)` for blocks of n queries of about the same size.
template <typename Body> void for_blocks(int64_t n, const Body &body) {
  const int64_t blocks = std::max<int64_t>(1, (n + BLOCK / 2) / BLOCK), rows = (n + blocks - 1) / blocks;
  for (int64_t first = 0; first < n; first += rows)
    body(first, std::min(rows, n - first));
}

// Like `xs` [batch, heads, n, d], laid out so that the heads of a position stand together.
at::Tensor by_position(const at::Tensor &xs) {
  return at::empty({xs.size(0), xs.size(2), xs.size(1), xs.size(3)}, xs.options()).transpose(1, 2);
}

at::Tensor mix(const at::Tensor &q, const at::Tensor &k, const at::Tensor &v, const Dropout &dropout) {
  const double scale = 1.0 / std::sqrt(static_cast<double>(q.size(3)));
  auto mixed = by_position(q);
  for_heads(q, [&](int64_t index) {
    const auto keys = wide(head(k, index)), values = wide(head(v, index).t());
    const auto queries = wide(head(q, index)) * scale;
    for_blocks(q.size(2), [&](int64_t first, int64_t n) {
      auto held = weights(queries.narrow(0, first, n), keys);
      drop(dropout, held, index, first);
      head(mixed, index).narrow(0, first, n).copy_(product(held, values));
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
    return mix(q, k, v, dropout);
  }

  static variable_list backward(AutogradContext *context, variable_list gradients) {
    auto saved = context->get_saved_variables();
    const auto &q = saved[0], &k = saved[1], &v = saved[2], &by_mixed = gradients[0];
    const Dropout dropout{context->saved_data["probability"].toDouble(),
                          static_cast<uint64_t>(context->saved_data["seed"].toInt())};
    const double scale = 1.0 / std::sqrt(static_cast<double>(q.size(3)));
    auto by_q = by_position(q), by_k = by_position(k), by_v = by_position(v);
    for_heads(q, [&](int64_t index) {
      const auto keys = wide(head(k, index)), values = wide(head(v, index)), keys_t = keys.t().contiguous();
      const auto queries = wide(head(q, index)) * scale;
      auto sum_k = at::zeros({keys.size(1), keys.size(0)}, keys.options()), sum_v = at::zeros_like(sum_k); // d m
      for_blocks(q.size(2), [&](int64_t first, int64_t n) {
        const auto chosen = queries.narrow(0, first, n);
        const auto outer = wide(head(by_mixed, index).narrow(0, first, n));
        const auto held = weights(chosen, keys);
        auto kept = held;
        if (dropout.probability > 0.0) {
          kept = held.clone();
          drop(dropout, kept, index, first);
        }
        sum_v.add_(product(outer.t().contiguous(), kept.t()));
        auto by_scores = product(outer, values);
        drop(dropout, by_scores, index, first);
        at::_softmax_backward_data_out(by_scores, by_scores, held, -1, at::kFloat);
        head(by_q, index).narrow(0, first, n).copy_(product(by_scores, keys_t).mul_(scale));
        sum_k.add_(product(chosen.t().contiguous(), by_scores.t()));
      });
      head(by_k, index).copy_(sum_k.t());
      head(by_v, index).copy_(sum_v.t());
    });
    return {by_q, by_k, by_v, {}};
  }
};

bool fits(const at::Tensor &xs) {
  const bool known = xs.scalar_type() == at::kFloat || xs.scalar_type() == at::kBFloat16;
  return xs.dim() == 4 && xs.device().is_cpu() && known;
}

} // namespace

at::Tensor attention(const at::Tensor &q, const at::Tensor &k, const at::Tensor &v, double dropout) {
  const bool ours = fits(q) && fits(k) && fits(v) && q.scalar_type() == k.scalar_type() &&
                    k.scalar_type() == v.scalar_type() && has_onednn() && q.size(2) * k.size(2) >= BLOCK * BLOCK / 4;
  if (!ours)
    return at::scaled_dot_product_attention(q, k, v, std::nullopt, dropout);
  const auto dropped = Dropout::draw(dropout);
  const bool recorded = at::GradMode::is_enabled() && (q.requires_grad() || k.requires_grad() || v.requires_grad());
  return recorded ? AttentionFunction::apply(q, k, v, dropped) : mix(q, k, v, dropped);
}

} // namespace talent
