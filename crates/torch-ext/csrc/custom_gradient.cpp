// Autograd function whose backward pass calls a function of the caller.

#include "first_order.h"
#include "layers.h"

#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/function.h>
#include <torch/custom_class.h>

namespace talent {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Owns the caller's closure for as long as the graph may need it.
struct Closure : torch::CustomClassHolder {
  Closure(void *state, talent_gradient call, void (*release)(void *)) : state(state), call(call), release(release) {}
  ~Closure() override { release(state); }

  void *state;
  talent_gradient call;
  void (*release)(void *);
};

struct CustomGradient : torch::autograd::Function<CustomGradient> {
  static at::Tensor forward(AutogradContext *context, at::TensorList inputs, const at::Tensor &value,
                            const c10::intrusive_ptr<Closure> &closure) {
    context->saved_data["closure"] = c10::IValue::make_capsule(closure);
    context->saved_data["inputs"] = static_cast<int64_t>(inputs.size());
    return value;
  }

  static variable_list backward(AutogradContext *context, variable_list gradients) {
    refuse_second_derivatives();
    auto closure = c10::static_intrusive_pointer_cast<Closure>(context->saved_data["closure"].toCapsule());
    const auto n = static_cast<size_t>(context->saved_data["inputs"].toInt());
    std::vector<void *> results(n, nullptr);
    const bool failed = closure->call(closure->state, &gradients[0], results.data(), static_cast<int64_t>(n)) != 0;
    variable_list grad_inputs;
    for (void *result : results) {
      std::unique_ptr<at::Tensor> owned(static_cast<at::Tensor *>(result));
      grad_inputs.push_back(owned ? *owned : at::Tensor());
    }
    TORCH_CHECK(!failed, "a custom gradient failed");
    // No gradients for the value and the closure.
    grad_inputs.resize(n + 2);
    return grad_inputs;
  }
};

} // namespace

at::Tensor custom_gradient(at::TensorList inputs, const at::Tensor &value, void *state, talent_gradient call,
                           void (*release)(void *)) {
  return CustomGradient::apply(inputs, value, c10::make_intrusive<Closure>(state, call, release));
}

} // namespace talent
