// Linear layers whose weight is frozen, in bfloat16 on the CPU. oneDNN copies the second operand of a product into tiles at every call;
// for weights that do not change it is done once.

#include "cpu_kernels.h"
#include "first_order.h"
#include "kept_forms.h"
#include "product.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/function.h>

#include <algorithm>

namespace talent {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// With fewer rows (a text encoder's words) little time is won, and the second layout, for the gradient, needs memory.
constexpr int64_t LEAST_ROWS = 256;

// Signatures of libtorch's operators `mkldnn::_reorder_linear_weight` and `mkldnn::_is_mkldnn_bf16_supported`.
using Pack = at::Tensor(const at::Tensor &, std::optional<int64_t>);
using Supported = bool();

// None where libtorch was built without the operators, or where oneDNN has no products of bfloat16 for the processor (AVX2).
const std::optional<c10::TypedOperatorHandle<Pack>> &packing() {
  static const auto handle = []() -> std::optional<c10::TypedOperatorHandle<Pack>> {
    auto &operators = c10::Dispatcher::singleton();
    const auto supported = operators.findSchema({"mkldnn::_is_mkldnn_bf16_supported", ""});
    const auto pack = operators.findSchema({"mkldnn::_reorder_linear_weight", ""});
    if (!supported || !pack || !supported->typed<Supported>().call())
      return std::nullopt;
    return pack->typed<Pack>();
  }();
  return handle;
}

at::Tensor packed(const at::Tensor &weight, Form form, int64_t rows) {
  return kept_form(weight, form, at::kBFloat16, [&] {
    at::AutoDispatchBelowADInplaceOrView guard;
    const auto matrix = form == Form::PackedTransposed ? weight.detach().t() : weight.detach();
    return packing()->call(matrix.to(at::kBFloat16).contiguous(), rows);
  });
}

int64_t rows_of(const at::Tensor &x) { return x.numel() / std::max<int64_t>(x.size(-1), 1); }

struct PackedLinear : torch::autograd::Function<PackedLinear> {
  static at::Tensor forward(AutogradContext *context, const at::Tensor &x, const at::Tensor &w,
                            const std::optional<at::Tensor> &bias) {
    context->save_for_backward({w});
    return product(x, packed(w, Form::Packed, rows_of(x)), bias);
  }

  static variable_list backward(AutogradContext *context, variable_list gradients) {
    refuse_second_derivatives();
    const auto w = context->get_saved_variables()[0];
    const auto grad_output = gradients[0].to(at::kBFloat16).contiguous();
    return {product(grad_output, packed(w, Form::PackedTransposed, rows_of(grad_output))), {}, {}};
  }
};

} // namespace

std::optional<at::Tensor> cpu::frozen_linear(const at::Tensor &x, const at::Tensor &w, const std::optional<at::Tensor> &bias) {
  const bool ours = x.device().is_cpu() && x.scalar_type() == at::kBFloat16 && w.scalar_type() == at::kFloat &&
                    fits_product(x, w, bias) && has_onednn() && packing() && rows_of(x) >= LEAST_ROWS;
  if (!ours)
    return {};
  const bool recorded = at::GradMode::is_enabled() && x.requires_grad();
  return recorded ? PackedLinear::apply(x, w, bias) : product(x, packed(w, Form::Packed, rows_of(x)), bias);
}

} // namespace talent
