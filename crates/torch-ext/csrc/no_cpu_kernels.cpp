// Replaces the CPU kernels when the feature `cpu-kernels` is off.

#include "cpu_kernels.h"

namespace talent::cpu {

void serve(bool) {}

std::string described() { return "libtorch's own"; }

std::optional<at::Tensor> linear(const at::Tensor &, const at::Tensor &, const std::optional<at::Tensor> &) { return {}; }

std::optional<at::Tensor> frozen_linear(const at::Tensor &, const at::Tensor &, const std::optional<at::Tensor> &) { return {}; }

std::optional<at::Tensor> attention(const at::Tensor &, const at::Tensor &, const at::Tensor &, double) { return {}; }

std::optional<at::Tensor> dropout(const at::Tensor &, double) { return {}; }

} // namespace talent::cpu
