// Differentiable layers that take libtorch's own way wherever that is the better one.
#pragma once
#include "talent_torch.h"

#include <ATen/ATen.h>

namespace talent {

// x w^T (+ bias).
at::Tensor linear(const at::Tensor &x, const at::Tensor &w, const std::optional<at::Tensor> &bias);

// A copy of a tensor that does not train in another dtype, for as long as the tensor lives unchanged.
at::Tensor kept_copy(const at::Tensor &weight, at::ScalarType type);

// xs + update * scale, the scale a value a channel, the update of any dtype, also under autocast. `in_dtype`: in that of xs,
// otherwise in the widest of the three.
at::Tensor scaled_sum(const at::Tensor &xs, const at::Tensor &update, const at::Tensor &scale, bool in_dtype);

// Layer normalisation over the last axis in the dtype of xs, whatever autocast would choose.
at::Tensor layer_norm(const at::Tensor &xs, const at::Tensor &weight, const at::Tensor &bias, double eps);

// softmax(q k^T / sqrt(d)) v with q [batch, heads, n, d], k and v [batch, heads, m, d]; `dropout` is the probability with
// which an entry of the softmax is dropped.
at::Tensor attention(const at::Tensor &q, const at::Tensor &k, const at::Tensor &v, double dropout);

// Zeroes entries with a probability, and scales the others up.
at::Tensor dropout(const at::Tensor &xs, double probability);

// `value`, differentiable in `inputs` by a function of the caller's. Takes over `state`, which `release` frees.
at::Tensor custom_gradient(at::TensorList inputs, const at::Tensor &value, void *state, talent_gradient call,
                           void (*release)(void *));

} // namespace talent
