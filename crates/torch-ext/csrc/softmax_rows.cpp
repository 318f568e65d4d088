#include "softmax_rows.h"

#include "vectorised.h"

#include <cstring>

namespace {

// Independent partial results, so that the compiler may keep them in a vector: it must not reorder sums of floats by itself.
constexpr int64_t LANES = 32;

// e^x for x <= 0, within 2e-7 of its value. NaN stays NaN.
inline float exponential(float x) {
  const float bounded = x < -87.0f ? -87.0f : x;
  const float power = bounded * 1.44269504f;
  const float whole = (power + 12582912.0f) - 12582912.0f; // rounded to the nearest integer
  const float rest = power - whole;
  // 2^rest for |rest| <= 1/2: the Taylor polynomial of e^(rest ln 2).
  const float root =
      1.0f + rest * (0.693147181f +
                     rest * (0.240226507f +
                             rest * (0.0555041087f + rest * (0.00961812911f + rest * (0.00133335581f + rest * 0.000154035304f)))));
  const int32_t bits = (static_cast<int32_t>(whole) + 127) << 23;
  float factor;
  std::memcpy(&factor, &bits, sizeof factor);
  return root * factor;
}

inline uint16_t rounded(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

TALENT_VECTORISED
float largest(const float *values, int64_t n) {
  float lanes[LANES];
  for (int64_t lane = 0; lane < LANES; ++lane)
    lanes[lane] = values[0];
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES)
    for (int64_t lane = 0; lane < LANES; ++lane)
      lanes[lane] = values[i + lane] > lanes[lane] ? values[i + lane] : lanes[lane];
  float result = lanes[0];
  for (int64_t lane = 1; lane < LANES; ++lane)
    result = lanes[lane] > result ? lanes[lane] : result;
  for (; i < n; ++i)
    result = values[i] > result ? values[i] : result;
  return result;
}

TALENT_VECTORISED
float exponentials_of(float *scores, int64_t n, float scale, float largest) {
  float lanes[LANES] = {};
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES)
    for (int64_t lane = 0; lane < LANES; ++lane) {
      const float value = exponential(scale * (scores[i + lane] - largest));
      scores[i + lane] = value;
      lanes[lane] += value;
    }
  float sum = 0.0f;
  for (; i < n; ++i)
    sum += scores[i] = exponential(scale * (scores[i] - largest));
  for (int64_t lane = 0; lane < LANES; ++lane)
    sum += lanes[lane];
  return sum;
}

TALENT_VECTORISED
float dot(const float *xs, const float *ys, int64_t n) {
  float lanes[LANES] = {};
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES)
    for (int64_t lane = 0; lane < LANES; ++lane)
      lanes[lane] += xs[i + lane] * ys[i + lane];
  float sum = 0.0f;
  for (; i < n; ++i)
    sum += xs[i] * ys[i];
  for (int64_t lane = 0; lane < LANES; ++lane)
    sum += lanes[lane];
  return sum;
}

TALENT_VECTORISED
void multiply_by(float *values, int64_t n, float factor) {
  for (int64_t i = 0; i < n; ++i)
    values[i] *= factor;
}

TALENT_VECTORISED
void gradient_of_scores(const float *probabilities, float *gradients, int64_t n, float scale, float mean) {
  for (int64_t i = 0; i < n; ++i)
    gradients[i] = scale * probabilities[i] * (gradients[i] - mean);
}

TALENT_VECTORISED
void round_all(const float *values, uint16_t *result, int64_t n) {
  for (int64_t i = 0; i < n; ++i)
    result[i] = rounded(values[i]);
}

TALENT_VECTORISED
void round_side_by_side(const float *even, const float *odd, uint32_t *result, int64_t n) {
  for (int64_t i = 0; i < n; ++i)
    result[i] = static_cast<uint32_t>(rounded(odd[i])) << 16 | rounded(even[i]);
}

} // namespace

namespace talent {

float exponentials(float *scores, int64_t n, float scale) { return exponentials_of(scores, n, scale, largest(scores, n)); }

void multiply(float *values, int64_t n, float factor) { multiply_by(values, n, factor); }

void softmax_gradient(const float *probabilities, float *gradients, int64_t n, float scale) {
  gradient_of_scores(probabilities, gradients, n, scale, dot(probabilities, gradients, n));
}

void to_bf16(const float *values, c10::BFloat16 *result, int64_t n) {
  round_all(values, reinterpret_cast<uint16_t *>(result), n);
}

void interleave_bf16(const float *even, const float *odd, c10::BFloat16 *result, int64_t n) {
  round_side_by_side(even, odd, reinterpret_cast<uint32_t *>(result), n);
}

} // namespace talent
