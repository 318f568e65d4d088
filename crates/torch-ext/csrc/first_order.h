// Gradients that are computed outside of autograd.
#pragma once
#include <ATen/core/grad_mode.h>
#include <c10/util/Exception.h>

namespace talent {

// Call at the start of such a backward pass. A second derivative (`create_graph`) would silently lack what is computed there.
inline void refuse_second_derivatives() {
  TORCH_CHECK(!at::GradMode::is_enabled(), "this operation has no second derivative (a backward pass with create_graph); "
                                           "of CPU kernels, set_cpu_kernels(false) takes libtorch's, which have one");
}

} // namespace talent
