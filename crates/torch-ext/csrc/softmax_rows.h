// Softmax and its gradient for the rows of a block of attention scores in float32, and the same rows in bfloat16.
#pragma once
#include <c10/util/BFloat16.h>

#include <cstdint>

namespace talent {

// Replaces `n` scores by exp(scale * (score - largest)); the result is their sum.
float exponentials(float *scores, int64_t n, float scale);

// Multiplies `n` values.
void multiply(float *values, int64_t n, float factor);

// The gradient of scores: scale * p * (g - sum(p g)) into `gradients`, which are g at first.
void softmax_gradient(const float *probabilities, float *gradients, int64_t n, float scale);

// `n` values to bfloat16, rounded to the nearest.
void to_bf16(const float *values, c10::BFloat16 *result, int64_t n);

// Two rows side by side, value by value, as products of bfloat16 need the rows of their second operand.
void interleave_bf16(const float *even, const float *odd, c10::BFloat16 *result, int64_t n);

} // namespace talent
