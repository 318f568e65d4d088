// Other forms of frozen weights (casts, layouts for matrix products), made once and kept as long as the weight lives and is not changed.
#pragma once
#include <ATen/ATen.h>

#include <functional>

namespace talent {

enum class Form : int8_t {
  // Another dtype.
  Cast,
  // The layout in which oneDNN reads the second operand of x w^T.
  Packed,
  // The same of x w.
  PackedTransposed,
};

// The weight in this form and dtype; `make` makes it when it is not kept yet. Each thread keeps its own.
at::Tensor kept_form(const at::Tensor &weight, Form form, at::ScalarType type, const std::function<at::Tensor()> &make);

} // namespace talent
