// Joint cast of all trained weights to the dtype of mixed precision.
#pragma once
#include <ATen/ATen.h>

namespace talent {

// Casts the weights that this thread passed to `lowered` since the last call. With float32 nothing is cast.
void lower_weights(at::ScalarType type);
void forget_lowered();

// The weight to use in a matrix product: its part of the joint cast if there is one, otherwise the weight itself.
at::Tensor lowered(const at::Tensor &weight);

} // namespace talent
