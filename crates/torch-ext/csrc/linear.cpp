#include "cpu_kernels.h"
#include "kept_forms.h"
#include "layers.h"
#include "lowered.h"

#include <ATen/autocast_mode.h>

namespace talent {

namespace {

bool is_frozen(const at::Tensor &xs) {
  const bool trained = at::GradMode::is_enabled() && xs.requires_grad();
  return !trained && xs.is_leaf() && !xs.is_view() && xs.scalar_type() == at::kFloat;
}

// A weight or bias as autocast would cast it.
at::Tensor operand(const at::Tensor &xs, at::ScalarType type) {
  return is_frozen(xs) ? cached_cast(xs, type) : lowered(xs);
}

} // namespace

// Autocast's own cache holds casts of trained weights only, and only until its guard is dropped. It would cast a frozen weight
// at every use.
at::Tensor cached_cast(const at::Tensor &weight, at::ScalarType type) {
  return kept_form(weight, Form::Cast, type, [&] { return weight.detach().to(type); });
}

at::Tensor linear(const at::Tensor &x, const at::Tensor &w, const std::optional<at::Tensor> &bias) {
  const auto device = x.device().type();
  if (at::autocast::is_autocast_enabled(device)) {
    const auto type = at::autocast::get_autocast_dtype(device);
    const auto cast_bias = bias ? std::optional<at::Tensor>(operand(*bias, type)) : std::nullopt;
    const bool no_gradients = is_frozen(w) && !(bias && at::GradMode::is_enabled() && bias->requires_grad());
    const bool is_cast = x.scalar_type() == at::kFloat || x.scalar_type() == type;
    if (device == at::kCPU && type == at::kBFloat16 && no_gradients && is_cast)
      if (auto ours = cpu::frozen_linear(x.to(type), w, cast_bias))
        return *ours;
    return at::linear(x, operand(w, type), cast_bias);
  }
  if (auto ours = cpu::linear(x, w, bias))
    return *ours;
  return at::linear(x, w, bias);
}

} // namespace talent
