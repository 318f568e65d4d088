// Matrix products of float32 on the CPU, by the faster of the two libraries that libtorch contains.
//
// MKL, which libtorch itself uses, uses only half of the vector width on processors of makers other than Intel; oneDNN uses what the
// processor supports. On Intel's with AVX-512, MKL is the faster one: it reads a transposed operand as fast as a plain one, where oneDNN copies it.
#pragma once
#include <ATen/ATen.h>

namespace talent {

// Whether this shim's CPU kernels are enabled, see `cpu::serve`.
bool serves_cpu();

// Whether this libtorch has oneDNN, and neither oneDNN nor this shim's kernels are disabled.
bool has_onednn();

// Whether the operands are those of `product`, and not empty. Everything else, mistakes included, is for libtorch.
bool fits_product(const at::Tensor &x, const at::Tensor &w, const std::optional<at::Tensor> &bias);

// x w^T (+ bias) with x [..., k], w [n, k], bias [n] contiguous, float32 on the CPU, or bfloat16 with w packed by oneDNN. Not recorded by autograd.
at::Tensor product(const at::Tensor &x, const at::Tensor &w, const std::optional<at::Tensor> &bias = std::nullopt);

// a b with a [n, k], b [k, m], float32 on the CPU. Not recorded by autograd. Either can be a transposed view.
at::Tensor multiplied(const at::Tensor &a, const at::Tensor &b);

// sum += a b.
void add_multiplied(at::Tensor &sum, const at::Tensor &a, const at::Tensor &b);

} // namespace talent
