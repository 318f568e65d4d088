// Differentiable layers. Each uses libtorch's own kernel where that is the better choice.
#pragma once
#include "talent_torch.h"

#include <ATen/ATen.h>

namespace talent {

// x w^T (+ bias).
at::Tensor linear(const at::Tensor &x, const at::Tensor &w, const std::optional<at::Tensor> &bias);

// Cached cast of a frozen weight to another dtype. The cache is valid as long as the weight lives and is not changed.
at::Tensor cached_cast(const at::Tensor &weight, at::ScalarType type);

// xs + update * scale, with one scale per channel and an update of any dtype; ignores autocast. With `in_dtype` the result has
// the dtype of xs, otherwise the widest dtype of the three.
at::Tensor scaled_sum(const at::Tensor &xs, const at::Tensor &update, const at::Tensor &scale, bool in_dtype);

// Layer normalisation over the last axis in the dtype of xs, ignoring autocast.
at::Tensor layer_norm(const at::Tensor &xs, const at::Tensor &weight, const at::Tensor &bias, double eps);

// softmax(q k^T / sqrt(d)) v with q [batch, heads, n, d], k and v [batch, heads, m, d]; `dropout` is the probability with
// which an entry of the softmax is dropped.
at::Tensor attention(const at::Tensor &q, const at::Tensor &k, const at::Tensor &v, double dropout);

// Zeroes entries with this probability and scales up the others.
at::Tensor dropout(const at::Tensor &xs, double probability);

// Returns `value` with a backward pass that calls `call` to get the gradients of `inputs`. Takes ownership of `state`;
// `release` frees it.
at::Tensor custom_gradient(at::TensorList inputs, const at::Tensor &value, void *state, talent_gradient call,
                           void (*release)(void *));

} // namespace talent
