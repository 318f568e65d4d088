#include "layers.h"
#include "lowered.h"
#include "product.h"

#include <ATen/autocast_mode.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/function.h>

#include <unordered_map>

namespace talent {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Below this, setting a product up costs oneDNN more than it saves.
constexpr int64_t LEAST_MULTIPLICATIONS = 1 << 21;

at::Tensor rows(const at::Tensor &x) { return x.reshape({-1, x.size(-1)}); }

struct LinearFunction : torch::autograd::Function<LinearFunction> {
  static at::Tensor forward(AutogradContext *context, const at::Tensor &x, const at::Tensor &w,
                            const std::optional<at::Tensor> &bias) {
    context->saved_data["has_bias"] = bias.has_value();
    // Each operand is kept only for the other's gradient.
    context->save_for_backward({w.requires_grad() ? x : at::Tensor(), x.requires_grad() ? w : at::Tensor()});
    return product(x, w, bias);
  }

  static variable_list backward(AutogradContext *context, variable_list gradients) {
    auto saved = context->get_saved_variables();
    const auto &x = saved[0], &w = saved[1];
    const auto by_output = rows(gradients[0].contiguous());
    at::Tensor by_x, by_w, by_bias;
    if (context->needs_input_grad(0)) {
      auto shape = gradients[0].sizes().vec();
      shape.back() = w.size(1);
      by_x = product(by_output, w.t()).view(shape);
    }
    if (context->needs_input_grad(1)) {
      // The first operand is copied into rows, so it had better be the smaller one.
      const auto inputs = rows(x);
      by_w = by_output.size(1) <= inputs.size(1) ? product(by_output.t(), inputs.t())
                                                 : product(inputs.t(), by_output.t()).t();
    }
    if (context->saved_data["has_bias"].toBool() && context->needs_input_grad(2))
      by_bias = by_output.sum(0);
    return {by_x, by_w, by_bias};
  }
};

bool is_plain_float(const at::Tensor &xs) {
  return xs.device().is_cpu() && xs.scalar_type() == at::kFloat && xs.layout() == at::kStrided;
}

} // namespace

// Autocast itself keeps copies only of weights that train, and only until its guard is dropped; frozen ones it would copy at
// every use.
at::Tensor kept_copy(const at::Tensor &weight, at::ScalarType type) {
  struct Kept {
    c10::weak_intrusive_ptr<at::TensorImpl> weight;
    uint32_t version;
    at::Tensor copy;
  };
  // Never destroyed: a device may be gone before the threads that used it.
  static thread_local auto &copies = *new std::unordered_map<at::TensorImpl *, Kept>;
  auto *key = weight.unsafeGetTensorImpl();
  auto found = copies.find(key);
  if (found != copies.end()) {
    const auto &kept = found->second;
    const bool same = kept.weight.lock().get() == key && kept.version == weight._version();
    if (same && kept.copy.scalar_type() == type)
      return kept.copy;
    copies.erase(found);
  }
  for (auto other = copies.begin(); other != copies.end();)
    other = other->second.weight.expired() ? copies.erase(other) : std::next(other);
  auto copy = weight.detach().to(type);
  copies.emplace(key, Kept{c10::weak_intrusive_ptr<at::TensorImpl>(weight.getIntrusivePtr()), weight._version(), copy});
  return copy;
}

at::Tensor linear(const at::Tensor &x, const at::Tensor &w, const std::optional<at::Tensor> &bias) {
  const bool recording = at::GradMode::is_enabled();
  const auto device = x.device().type();
  if (at::autocast::is_autocast_enabled(device)) {
    const auto type = at::autocast::get_autocast_dtype(device);
    const auto operand = [&](const at::Tensor &xs) {
      const bool frozen = !(recording && xs.requires_grad()) && xs.is_leaf() && !xs.is_view();
      return frozen && xs.scalar_type() == at::kFloat ? kept_copy(xs, type) : lowered(xs);
    };
    return at::linear(x, operand(w), bias ? std::optional<at::Tensor>(operand(*bias)) : std::nullopt);
  }
  if (!is_plain_float(x) || !is_plain_float(w) || !has_onednn() || x.numel() * w.size(0) < LEAST_MULTIPLICATIONS)
    return at::linear(x, w, bias);
  const bool recorded =
      recording && (x.requires_grad() || w.requires_grad() || (bias && bias->requires_grad()));
  return recorded ? LinearFunction::apply(x, w, bias) : product(x, w, bias);
}

} // namespace talent
