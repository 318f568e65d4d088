#include "product.h"
#include "cpu_kernels.h"

#include <ATen/autocast_mode.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/List.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/native/CPUBlas.h>
#include <torch/csrc/jit/frontend/tracer.h>

#include <atomic>
#include <cstdlib>
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

// An Intel processor with AVX-512. MKL's kernels for AVX2 wait for one another and stand still beside other programs.
bool suits_mkl() {
#if defined(__x86_64__) && defined(__GNUC__)
  return __builtin_cpu_is("intel") && __builtin_cpu_supports("avx512f");
#else
  return false;
#endif
}

// Whether MKL computes the products. The kind of processor decides and not a measurement, so that results do not change from run
// to run. `TALENT_PRODUCTS` overrides it.
bool uses_mkl() {
  static const bool mkl = [] {
    const char *asked = std::getenv("TALENT_PRODUCTS");
    if (asked == nullptr || *asked == '\0')
      return at::hasMKL() && suits_mkl();
    const std::string_view library(asked);
    TORCH_CHECK(library == "mkl" || library == "onednn", "TALENT_PRODUCTS is `", asked, "`; it must be mkl or onednn");
    TORCH_CHECK(library == "onednn" || at::hasMKL(), "TALENT_PRODUCTS is mkl, but this libtorch was built without MKL");
    return library == "mkl";
  }();
  return mkl;
}

// Excludes autograd, and autocast, which would cast the operands of libtorch's products.
struct Plain {
  at::AutoDispatchBelowADInplaceOrView no_autograd;
  c10::impl::ExcludeDispatchKeyGuard no_autocast{c10::autocast_dispatch_keyset};
};

at::Tensor by_mkl(const at::Tensor &x, const at::Tensor &w, const std::optional<at::Tensor> &bias) {
  const auto rows = x.dim() == 2 ? x : x.reshape({-1, x.size(-1)});
  const auto result = bias ? at::addmm(*bias, rows, w.t()) : at::mm(rows, w.t());
  auto shape = x.sizes().vec();
  shape.back() = w.size(0);
  return result.view(shape);
}

} // namespace

void cpu::serve(bool serve) { serving = serve; }

std::string cpu::described() {
  if (!serves_cpu())
    return "libtorch's own";
  const bool packs = at::native::cpublas::could_pack(at::kBFloat16);
  const char *products = !has_onednn() ? "libtorch" : uses_mkl() ? "MKL" : "oneDNN";
  return std::string("products in float32 ") + products + ", in bf16 " + (has_onednn() ? "oneDNN" : "libtorch") +
         "; attention in float32 by blocks, in bf16 " + (packs ? "by blocks with matrix instructions" : "libtorch");
}

// A trace would not see what these kernels write.
bool serves_cpu() { return serving && !torch::jit::tracer::isTracing(); }

bool has_onednn() { return serves_cpu() && linear().has_value() && at::globalContext().userEnabledMkldnn(); }

bool fits_product(const at::Tensor &x, const at::Tensor &w, const std::optional<at::Tensor> &bias) {
  const bool fits = w.dim() == 2 && x.dim() > 0 && x.size(-1) == w.size(1) && x.numel() > 0 && w.numel() > 0;
  // oneDNN would read a bias with strides as if it had none.
  return fits && (!bias || (bias->dim() == 1 && bias->size(0) == w.size(0) && bias->is_contiguous() &&
                            bias->scalar_type() == x.scalar_type()));
}

at::Tensor product(const at::Tensor &x, const at::Tensor &w, const std::optional<at::Tensor> &bias) {
  const Plain guard;
  if (x.scalar_type() == at::kFloat && uses_mkl())
    return by_mkl(x, w, bias);
  return linear()->call(x, w, bias, "none", c10::List<std::optional<at::Scalar>>(), "");
}

at::Tensor multiplied(const at::Tensor &a, const at::Tensor &b) {
  // oneDNN makes the first operand contiguous by a copy, so the smaller one goes first.
  return uses_mkl() || a.size(0) <= b.size(1) ? product(a, b.t()) : product(b.t(), a).t();
}

void add_multiplied(at::Tensor &sum, const at::Tensor &a, const at::Tensor &b) {
  const Plain guard;
  if (uses_mkl())
    sum.addmm_(a, b);
  else
    sum.add_(product(a.contiguous(), b.t()));
}

} // namespace talent
