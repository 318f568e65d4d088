// Residual connections of frozen blocks, with as few passes over memory as possible.

#include "first_order.h"
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
    refuse_second_derivatives();
    const auto saved = context->get_saved_variables();
    const auto &scale = saved[0], &update = saved[1], &grad_sum = gradients[0];
    at::Tensor grad_update, grad_scale;
    if (context->needs_input_grad(1)) {
      // Written directly in the update's dtype, without a cast afterwards.
      const auto type = static_cast<at::ScalarType>(context->saved_data["type"].toInt());
      grad_update = at::empty(grad_sum.sizes(), grad_sum.options().dtype(type));
      at::mul_out(grad_update, grad_sum, scale);
    }
    if (context->needs_input_grad(2)) {
      auto product = grad_sum * update;
      grad_scale = product.reshape({-1, scale.numel()}).sum(0).to(scale.scalar_type());
    }
    return {grad_sum.to(static_cast<at::ScalarType>(context->saved_data["first"].toInt())), grad_update, grad_scale};
  }
};

} // namespace

namespace {

at::Tensor in_type(const at::Tensor &weight, at::ScalarType type) {
  if (weight.scalar_type() == type)
    return weight;
  return weight.requires_grad() ? weight.to(type) : cached_cast(weight, type);
}

} // namespace

at::Tensor scaled_sum(const at::Tensor &xs, const at::Tensor &update, const at::Tensor &scale, bool in_dtype) {
  // Autocast would first copy the update to a wider dtype. The operation can read it in its own dtype.
  c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  if (!in_dtype)
    return at::GradMode::is_enabled() ? ScaledSum::apply(xs, update, scale) : at::addcmul(xs, update, scale);
  const auto type = xs.scalar_type();
  return ScaledSum::apply(xs, update.to(type), in_type(scale, type));
}

at::Tensor layer_norm(const at::Tensor &xs, const at::Tensor &weight, const at::Tensor &bias, double eps) {
  c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  const auto type = xs.scalar_type();
  return at::layer_norm(xs, weight.sizes(), in_type(weight, type), in_type(bias, type), eps);
}

} // namespace talent
