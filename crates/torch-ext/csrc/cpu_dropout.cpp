#include "cpu_kernels.h"
#include "dropout.h"
#include "first_order.h"
#include "product.h"
#include "vectorised.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/function.h>

#include <cmath>

namespace {

// The finaliser of splitmix64.
uint64_t mixed(uint64_t bits) {
  bits = (bits ^ (bits >> 30)) * 0xbf58476d1ce4e5b9u;
  bits = (bits ^ (bits >> 27)) * 0x94d049bb133111ebu;
  return bits ^ (bits >> 31);
}

// A low-bias 32-bit integer hash (two rounds of multiply and xor-shift).
inline uint32_t mixed(uint32_t bits) {
  bits = (bits ^ (bits >> 16)) * 0x7feb352du;
  bits = (bits ^ (bits >> 15)) * 0x846ca68bu;
  return bits ^ (bits >> 16);
}

TALENT_VECTORISED
void drop_values(float *values, int64_t n, uint32_t low, uint32_t high, uint32_t limit, float scale) {
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t bits = mixed(mixed(static_cast<uint32_t>(i) + low) ^ high);
    values[i] = bits < limit ? 0.0f : values[i] * scale;
  }
}

} // namespace

namespace talent {

Dropout Dropout::draw(double probability) {
  TORCH_CHECK(probability >= 0.0 && probability <= 1.0, "a dropout probability must be 0 to 1, not ", probability);
  if (probability == 0.0)
    return {};
  auto generator = at::detail::getDefaultCPUGenerator();
  std::lock_guard<std::mutex> lock(generator.mutex());
  return {probability, at::check_generator<at::CPUGeneratorImpl>(generator)->random64()};
}

void Dropout::apply(float *values, int64_t n, uint64_t row) const {
  if (probability == 0.0)
    return;
  const uint64_t key = mixed(seed + mixed(row + 0x9e3779b97f4a7c15u));
  const auto limit = static_cast<uint32_t>(std::llround(std::min(probability * 4294967296.0, 4294967295.0)));
  drop_values(values, n, static_cast<uint32_t>(key), static_cast<uint32_t>(key >> 32), limit,
       static_cast<float>(1.0 / (1.0 - probability)));
}

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

at::Tensor dropped(const at::Tensor &xs, const Dropout &dropout) {
  at::AutoDispatchBelowADInplaceOrView guard;
  auto result = xs.to(at::kFloat, /*non_blocking=*/false, /*copy=*/true).contiguous();
  float *values = result.data_ptr<float>();
  const int64_t columns = result.size(-1), rows = result.numel() / std::max<int64_t>(columns, 1);
  at::parallel_for(0, rows, 64, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row)
      dropout.apply(values + row * columns, columns, row);
  });
  return result.to(xs.scalar_type());
}

struct DropoutFunction : torch::autograd::Function<DropoutFunction> {
  static at::Tensor forward(AutogradContext *context, const at::Tensor &xs, const Dropout &dropout) {
    context->saved_data["probability"] = dropout.probability;
    context->saved_data["seed"] = static_cast<int64_t>(dropout.seed);
    return dropped(xs, dropout);
  }

  static variable_list backward(AutogradContext *context, variable_list gradients) {
    refuse_second_derivatives();
    const Dropout dropout{context->saved_data["probability"].toDouble(),
                          static_cast<uint64_t>(context->saved_data["seed"].toInt())};
    return {dropped(gradients[0], dropout), {}};
  }
};

} // namespace

std::optional<at::Tensor> cpu::dropout(const at::Tensor &xs, double probability) {
  const bool ours = serves_cpu() && xs.device().is_cpu() && xs.dim() > 0 &&
                    (xs.scalar_type() == at::kFloat || xs.scalar_type() == at::kBFloat16);
  if (!ours || probability == 0.0)
    return {};
  const auto drawn = Dropout::draw(probability);
  return at::GradMode::is_enabled() && xs.requires_grad() ? DropoutFunction::apply(xs, drawn) : dropped(xs, drawn);
}

} // namespace talent
