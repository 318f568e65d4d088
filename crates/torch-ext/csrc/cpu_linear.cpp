#include "cpu_kernels.h"
#include "first_order.h"
#include "product.h"

#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/function.h>

namespace talent {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Below this many multiplications, the set-up of a product in oneDNN costs more than it saves.
constexpr int64_t LEAST_MULTIPLICATIONS = 1 << 21;

at::Tensor rows(const at::Tensor &x) { return x.reshape({-1, x.size(-1)}); }

struct LinearFunction : torch::autograd::Function<LinearFunction> {
  static at::Tensor forward(AutogradContext *context, const at::Tensor &x, const at::Tensor &w,
                            const std::optional<at::Tensor> &bias) {
    context->saved_data["has_bias"] = bias.has_value();
    // Each operand is saved only if the gradient of the other one needs it.
    context->save_for_backward({w.requires_grad() ? x : at::Tensor(), x.requires_grad() ? w : at::Tensor()});
    return product(x, w, bias);
  }

  static variable_list backward(AutogradContext *context, variable_list gradients) {
    refuse_second_derivatives();
    auto saved = context->get_saved_variables();
    const auto &x = saved[0], &w = saved[1];
    const auto grad_output = rows(gradients[0].contiguous());
    at::Tensor grad_x, grad_w, grad_bias;
    if (context->needs_input_grad(0)) {
      auto shape = gradients[0].sizes().vec();
      shape.back() = w.size(1);
      grad_x = product(grad_output, w.t()).view(shape);
    }
    if (context->needs_input_grad(1))
      grad_w = multiplied(grad_output.t(), rows(x));
    if (context->saved_data["has_bias"].toBool() && context->needs_input_grad(2))
      grad_bias = grad_output.sum(0);
    return {grad_x, grad_w, grad_bias};
  }
};

bool is_plain_float(const at::Tensor &xs) {
  return xs.device().is_cpu() && xs.scalar_type() == at::kFloat && xs.layout() == at::kStrided;
}

} // namespace

std::optional<at::Tensor> cpu::linear(const at::Tensor &x, const at::Tensor &w, const std::optional<at::Tensor> &bias) {
  if (!is_plain_float(x) || !is_plain_float(w) || !fits_product(x, w, bias) || !has_onednn() ||
      x.numel() * w.size(0) < LEAST_MULTIPLICATIONS)
    return {};
  const bool recorded =
      at::GradMode::is_enabled() && (x.requires_grad() || w.requires_grad() || (bias && bias->requires_grad()));
  return recorded ? LinearFunction::apply(x, w, bias) : product(x, w, bias);
}

} // namespace talent
