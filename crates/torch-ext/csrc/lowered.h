// Trained weights in the dtype of mixed precision, cast together.
#pragma once
#include <ATen/ATen.h>

namespace talent {

// Casts the weights that `lowered` was asked for since the last call, for this thread. float32 casts none.
void lower_weights(at::ScalarType type);
void forget_lowered();

// A weight as products are to take it.
at::Tensor lowered(const at::Tensor &weight);

} // namespace talent
