// Matrix products on the CPU by oneDNN.
//
// libtorch uses MKL for float32 products, and MKL uses only half of the vector width on processors of makers other than Intel.
// oneDNN uses what the processor supports. libtorch contains oneDNN too, and uses it for convolutions and for bfloat16.
#pragma once
#include <ATen/ATen.h>

namespace talent {

// Whether this shim's CPU kernels are enabled, see `cpu::serve`.
bool serves_cpu();

// Whether this libtorch has oneDNN, and neither oneDNN nor this shim's kernels are disabled.
bool has_onednn();

// x w^T (+ bias) with x [..., k], w [n, k], float32 on the CPU. Not recorded by autograd.
at::Tensor product(const at::Tensor &x, const at::Tensor &w, const std::optional<at::Tensor> &bias = std::nullopt);

} // namespace talent
