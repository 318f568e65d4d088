// The residual connections of frozen blocks, in as few passes over memory as there can be.

#include "layers.h"

#include <ATen/autocast_mode.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/function.h>

namespace talent {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct ScaledSum : torch::autograd::Function<ScaledSum> {
  static at::Tensor forward(AutogradContext *context, const at::Tensor &xs, const at::Tensor &update,
                            const at::Tensor &scale) {
    at::AutoDispatchBelowADInplaceOrView guard;
    context->save_for_backward({scale, scale.requires_grad() ? update : at::Tensor()});
    context->saved_data["first"] = static_cast<int64_t>(xs.scalar_type());
    context->saved_data["type"] = static_cast<int64_t>(update.scalar_type());
    return at::addcmul(xs, update, scale);
  }

  static variable_list backward(AutogradContext *context, variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const auto &scale = saved[0], &update = saved[1], &by_sum = gradients[0];
    at::Tensor by_update, by_scale;
    if (context->needs_input_grad(1)) {
      // Straight into the update's dtype.
      const auto type = static_cast<at::ScalarType>(context->saved_data["type"].toInt());
      by_update = at::empty(by_sum.sizes(), by_sum.options().dtype(type));
      at::mul_out(by_update, by_sum, scale);
    }
    if (context->needs_input_grad(2)) {
      auto product = by_sum * update;
      by_scale = product.reshape({-1, scale.numel()}).sum(0).to(scale.scalar_type());
    }
    return {by_sum.to(static_cast<at::ScalarType>(context->saved_data["first"].toInt())), by_update, by_scale};
  }
};

} // namespace

namespace {

at::Tensor in_type(const at::Tensor &weight, at::ScalarType type) {
  if (weight.scalar_type() == type)
    return weight;
  return weight.requires_grad() ? weight.to(type) : kept_copy(weight, type);
}

} // namespace

at::Tensor scaled_sum(const at::Tensor &xs, const at::Tensor &update, const at::Tensor &scale, bool in_dtype) {
  // Autocast would widen the update by a copy first; the operation reads what it is given.
  c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  if (!in_dtype)
    return ScaledSum::apply(xs, update, scale);
  const auto type = xs.scalar_type();
  return ScaledSum::apply(xs, update.to(type), in_type(scale, type));
}

at::Tensor layer_norm(const at::Tensor &xs, const at::Tensor &weight, const at::Tensor &bias, double eps) {
  c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  const auto type = xs.scalar_type();
  return at::layer_norm(xs, weight.sizes(), in_type(weight, type), in_type(bias, type), eps);
}

} // namespace talent
