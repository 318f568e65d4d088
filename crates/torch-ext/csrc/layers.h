// Differentiable layers that take libtorch's own way wherever that is the better one.
#pragma once
#include "talent_torch.h"

#include <ATen/ATen.h>

namespace talent {

// x w^T (+ bias).
at::Tensor linear(const at::Tensor &x, const at::Tensor &w, const std::optional<at::Tensor> &bias);

// softmax(q k^T / sqrt(d)) v with q [batch, heads, n, d], k and v [batch, heads, m, d]; `dropout` is the probability with
// which an entry of the softmax is dropped.
at::Tensor attention(const at::Tensor &q, const at::Tensor &k, const at::Tensor &v, double dropout);

// Zeroes entries with a probability, and scales the others up.
at::Tensor dropout(const at::Tensor &xs, double probability);

// `value`, differentiable in `inputs` by a function of the caller's. Takes over `state`, which `release` frees.
at::Tensor custom_gradient(at::TensorList inputs, const at::Tensor &value, void *state, talent_gradient call,
                           void (*release)(void *));

} // namespace talent
