// Matrix products on the CPU by oneDNN.
//
// libtorch sends float32 products to MKL, which on other makers' processors uses half of the vector width they have.
// oneDNN, which libtorch holds too and uses for convolutions and for bfloat16, asks the processor what it can do.
#pragma once
#include <ATen/ATen.h>

namespace talent {

// Whether the kernels of this shim serve CPU tensors, as they do unless told otherwise; else libtorch's own do.
void serve_cpu(bool serve);
bool serves_cpu();

// Whether this libtorch has oneDNN, neither it nor this shim's kernels being switched off.
bool has_onednn();

// x w^T (+ bias) with x [..., k], w [n, k], float32 on the CPU. Not differentiable; records nothing.
at::Tensor product(const at::Tensor &x, const at::Tensor &w, const std::optional<at::Tensor> &bias = std::nullopt);

} // namespace talent
