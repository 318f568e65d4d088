// This library's kernels for CPU tensors (feature `cpu-kernels`). Each returns nullopt where libtorch's own kernel is the
// better choice. Without the feature all of them return nullopt.
#pragma once
#include <ATen/ATen.h>

#include <optional>
#include <string>

namespace talent::cpu {

// Enables or disables the kernels. They are enabled at first.
void serve(bool serve);

// Which kernels serve on this processor, in words.
std::string described();

// x w^T (+ bias), see `talent::linear`.
std::optional<at::Tensor> linear(const at::Tensor &x, const at::Tensor &w, const std::optional<at::Tensor> &bias);

// The same of bfloat16 x and a float32 w that is not trained. Its gradient is that of x alone.
std::optional<at::Tensor> frozen_linear(const at::Tensor &x, const at::Tensor &w, const std::optional<at::Tensor> &bias);

// See `talent::attention`.
std::optional<at::Tensor> attention(const at::Tensor &q, const at::Tensor &k, const at::Tensor &v, double dropout);

// See `talent::dropout`.
std::optional<at::Tensor> dropout(const at::Tensor &xs, double probability);

} // namespace talent::cpu
