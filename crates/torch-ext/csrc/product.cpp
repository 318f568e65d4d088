#include "product.h"
#include "cpu_kernels.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/List.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/native/CPUBlas.h>
#include <torch/csrc/jit/frontend/tracer.h>

#include <atomic>
#include <string_view>

namespace talent {

namespace {

// Signature of libtorch's operator `mkldnn::_linear_pointwise`, which some builds lack.
using Linear = at::Tensor(const at::Tensor &, const at::Tensor &, const std::optional<at::Tensor> &, std::string_view,
                          c10::List<std::optional<at::Scalar>>, std::optional<std::string_view>);

std::optional<c10::TypedOperatorHandle<Linear>> find_linear() {
  if (!at::globalContext().hasMKLDNN())
    return std::nullopt;
  auto found = c10::Dispatcher::singleton().findSchema({"mkldnn::_linear_pointwise", ""});
  if (!found)
    return std::nullopt;
  return found->typed<Linear>();
}

const std::optional<c10::TypedOperatorHandle<Linear>> &linear() {
  static const auto handle = find_linear();
  return handle;
}

std::atomic<bool> serving{true};

} // namespace

void cpu::serve(bool serve) { serving = serve; }

std::string cpu::described() {
  if (!serves_cpu())
    return "libtorch's own";
  const bool packs = at::native::cpublas::could_pack(at::kBFloat16);
  return std::string("products ") + (has_onednn() ? "oneDNN" : "libtorch") +
         ", attention in float32 by blocks, attention in bf16 " + (packs ? "by blocks with matrix instructions" : "libtorch");
}

// A trace would not see what these kernels write.
bool serves_cpu() { return serving && !torch::jit::tracer::isTracing(); }

bool has_onednn() { return serves_cpu() && linear().has_value() && at::globalContext().userEnabledMkldnn(); }

at::Tensor product(const at::Tensor &x, const at::Tensor &w, const std::optional<at::Tensor> &bias) {
  at::AutoDispatchBelowADInplaceOrView guard;
  return linear()->call(x, w, bias, "none", c10::List<std::optional<at::Scalar>>(), "");
}

} // namespace talent
