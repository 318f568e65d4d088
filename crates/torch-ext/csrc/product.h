// Matrix products on the CPU by oneDNN.
//
// libtorch sends float32 products to MKL, which on other makers' processors uses half of the vector width they have.
// oneDNN, which libtorch holds too and uses for convolutions and for bfloat16, asks the processor what it can do.
#pragma once
#include <ATen/ATen.h>

namespace talent {

// Whether this libtorch has oneDNN, and it is not switched off.
bool has_onednn();

// x w^T (+ bias) with x [..., k], w [n, k], float32 on the CPU. Not differentiable; records nothing.
at::Tensor product(const at::Tensor &x, const at::Tensor &w, const std::optional<at::Tensor> &bias = std::nullopt);

} // namespace talent
