// Attention in bfloat16 on processors with matrix instructions for it (AMX).
#pragma once
#include "dropout.h"

#include <ATen/ATen.h>

namespace talent::bf16_attention {

// Whether the processor has the instructions and queries suit the kernels: bfloat16 [batch, heads, n, d], d a multiple of 32. Keys and
// values must be of the same dtype and width.
bool supports(const at::Tensor &q);

// softmax(q k^T / sqrt(d)) v into `mixed`, of the shape of q. Products take bfloat16 and add in float32; scores and softmax are
// float32.
void forward(const at::Tensor &q, const at::Tensor &k, const at::Tensor &v, const Dropout &dropout, at::Tensor &mixed);

struct Gradients {
  at::Tensor q, k, v;
};

// Gradients of the same into tensors of the shapes of q, k and v.
void backward(const at::Tensor &q, const at::Tensor &k, const at::Tensor &v, const at::Tensor &grad_output,
              const Dropout &dropout, Gradients &gradients);

} // namespace talent::bf16_attention
