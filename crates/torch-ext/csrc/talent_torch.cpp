#include "talent_torch.h"
#include "cpu_kernels.h"
#include "guarded.h"
#include "layers.h"
#include "lowered.h"
#include "measure.h"
#include "transfer.h"

#include <ATen/ATen.h>
#include <ATen/Version.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/CachingHostAllocator.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <torch/version.h>

#include <cstring>
#include <vector>

using talent::guarded;

namespace {

char *copy_text(const char *text) { return strdup(text); }

at::Tensor &tensor(void *pointer) { return *static_cast<at::Tensor *>(pointer); }

std::optional<at::Tensor> optional(void *pointer) {
  return pointer == nullptr ? std::nullopt : std::optional<at::Tensor>(tensor(pointer));
}

std::vector<at::Tensor> tensors(void **pointers, int64_t n) {
  std::vector<at::Tensor> list;
  list.reserve(n);
  for (int64_t i = 0; i < n; ++i)
    list.push_back(tensor(pointers[i]));
  return list;
}

at::DeviceType device_type(int cuda) { return cuda ? at::kCUDA : at::kCPU; }

at::Device device(int index) { return index < 0 ? at::Device(at::kCPU) : at::Device(at::kCUDA, index); }

} // namespace

extern "C" {

char *talent_autocast_get(int cuda, int *enabled, int *scalar_type) {
  return guarded([&] {
    *enabled = at::autocast::is_autocast_enabled(device_type(cuda));
    *scalar_type = static_cast<int>(at::autocast::get_autocast_dtype(device_type(cuda)));
  });
}

char *talent_autocast_set(int cuda, int enabled, int scalar_type) {
  return guarded([&] {
    at::autocast::set_autocast_dtype(device_type(cuda), static_cast<at::ScalarType>(scalar_type));
    at::autocast::set_autocast_enabled(device_type(cuda), enabled != 0);
  });
}

char *talent_autocast_clear_cache() {
  return guarded([] { at::autocast::clear_cache(); });
}

char *talent_generator_get_state(int device_index, void **state) {
  return guarded([&] {
    auto generator = at::globalContext().defaultGenerator(device(device_index));
    std::lock_guard<std::mutex> lock(generator.mutex());
    *state = new at::Tensor(generator.get_state());
  });
}

char *talent_generator_set_state(int device_index, void *state) {
  return guarded([&] {
    auto generator = at::globalContext().defaultGenerator(device(device_index));
    std::lock_guard<std::mutex> lock(generator.mutex());
    generator.set_state(tensor(state));
  });
}

char *talent_fused_adam(void **params, void **grads, void **exp_avgs, void **exp_avg_sqs, void **steps, int64_t n,
                        double lr, double beta1, double beta2, double eps, double weight_decay, void *lr_factor,
                        void *found_inf) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    if (lr_factor != nullptr) {
      at::_fused_adam_(tensors(params, n), tensors(grads, n), tensors(exp_avgs, n), tensors(exp_avg_sqs, n), {},
                       tensors(steps, n), tensor(lr_factor) * lr, beta1, beta2, weight_decay, eps, /*amsgrad=*/false,
                       /*maximize=*/false, /*grad_scale=*/std::nullopt, optional(found_inf));
      return;
    }
    at::_fused_adam_(tensors(params, n), tensors(grads, n), tensors(exp_avgs, n), tensors(exp_avg_sqs, n), {},
                     tensors(steps, n), lr, beta1, beta2, weight_decay, eps, /*amsgrad=*/false, /*maximize=*/false,
                     /*grad_scale=*/std::nullopt,
                     optional(found_inf));
  });
}

char *talent_unscale_and_check(void **grads, int64_t n, void *found_inf, void *inv_scale) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    at::_amp_foreach_non_finite_check_and_unscale_(tensors(grads, n), tensor(found_inf), tensor(inv_scale));
  });
}

char *talent_cuda_peak_bytes(int device_index, int64_t *allocated) {
  return guarded([&] {
    auto *allocator = dynamic_cast<c10::DeviceAllocator *>(c10::GetAllocator(at::kCUDA));
    *allocated = 0;
    if (allocator != nullptr && allocator->initialized()) {
      auto stats = allocator->getDeviceStats(static_cast<c10::DeviceIndex>(device_index));
      *allocated = stats.allocated_bytes[0].peak;
    }
  });
}

char *talent_cuda_reset_peak(int device_index) {
  return guarded([&] {
    auto *allocator = dynamic_cast<c10::DeviceAllocator *>(c10::GetAllocator(at::kCUDA));
    if (allocator != nullptr && allocator->initialized())
      allocator->resetPeakStats(static_cast<c10::DeviceIndex>(device_index));
  });
}

char *talent_allow_tf32(int allowed) {
  return guarded([&] {
    at::globalContext().setAllowTF32CuBLAS(allowed != 0);
    at::globalContext().setAllowTF32CuDNN(allowed != 0);
  });
}

char *talent_tf32_products(int allowed, int *before) {
  return guarded([&] {
    *before = at::globalContext().allowTF32CuBLAS();
    at::globalContext().setAllowTF32CuBLAS(allowed != 0);
  });
}

uint64_t talent_write_count(void *xs) { return tensor(xs)._version(); }

char *talent_poison_memory(int poison) {
  return guarded([&] {
    // libtorch fills memory only while deterministic algorithms are enabled.
    at::globalContext().setDeterministicAlgorithms(poison != 0, /*warn_only=*/true);
    at::globalContext().setDeterministicFillUninitializedMemory(poison != 0);
  });
}

void talent_cpu_kernels(int enabled) { talent::cpu::serve(enabled != 0); }

char *talent_scaled_sum(void *xs, void *update, void *scale, int in_dtype, void **result) {
  return guarded([&] {
    *result = new at::Tensor(talent::scaled_sum(tensor(xs), tensor(update), tensor(scale), in_dtype != 0));
  });
}

char *talent_layer_norm(void *xs, void *weight, void *bias, double eps, void **result) {
  return guarded([&] {
    *result = new at::Tensor(talent::layer_norm(tensor(xs), tensor(weight), tensor(bias), eps));
  });
}

char *talent_lower_weights(int scalar_type) {
  return guarded([&] { talent::lower_weights(static_cast<at::ScalarType>(scalar_type)); });
}

void talent_forget_lowered() { talent::forget_lowered(); }

char *talent_lowered(void *weight, void **result) {
  return guarded([&] { *result = new at::Tensor(talent::lowered(tensor(weight))); });
}

char *talent_clear_gradients(void **params, int64_t n) {
  return guarded([&] {
    for (int64_t i = 0; i < n; ++i)
      tensor(params[i]).mutable_grad().reset();
  });
}

char *talent_profile_start(int cuda) {
  return guarded([&] { talent::profile_start(cuda != 0); });
}

char *talent_profile_stop(void *state, talent_trace_event event) {
  return guarded([&] { talent::profile_stop(state, event); });
}

char *talent_count_synchronisations() {
  return guarded([] { talent::count_synchronisations(); });
}

char *talent_synchronisations(int64_t *n) {
  return guarded([&] { *n = talent::synchronisations(); });
}

char *talent_mark(int device_index, void **mark) {
  return guarded([&] { *mark = new c10::Event(talent::mark(device(device_index))); });
}

char *talent_mark_elapsed(void *first, void *second, double *milliseconds) {
  return guarded([&] {
    auto &from = *static_cast<c10::Event *>(first), &to = *static_cast<c10::Event *>(second);
    from.synchronize();
    to.synchronize();
    *milliseconds = from.elapsedTime(to);
  });
}

void talent_mark_free(void *mark) { delete static_cast<c10::Event *>(mark); }

char *talent_linear(void *x, void *weight, void *bias, void **result) {
  return guarded([&] {
    *result = new at::Tensor(talent::linear(tensor(x), tensor(weight), optional(bias)));
  });
}

char *talent_attention(void *queries, void *keys, void *values, double dropout, void **result) {
  return guarded([&] {
    *result = new at::Tensor(talent::attention(tensor(queries), tensor(keys), tensor(values), dropout));
  });
}

char *talent_dropout(void *xs, double probability, void **result) {
  return guarded([&] { *result = new at::Tensor(talent::dropout(tensor(xs), probability)); });
}

char *talent_custom_gradient(void **inputs, int64_t n, void *value, void *state, talent_gradient gradient,
                             void (*release)(void *), void **result) {
  return guarded([&] {
    auto list = tensors(inputs, n);
    *result = new at::Tensor(talent::custom_gradient(list, tensor(value), state, gradient, release));
  });
}

void talent_upload_beside(int beside) { talent::upload_beside(beside != 0); }

char *talent_upload(void *host, int device_index, void **result) {
  return guarded([&] { *result = new at::Tensor(talent::upload(tensor(host), device(device_index))); });
}

char *talent_download_start(void *xs, void **download) {
  return guarded([&] { *download = new talent::Download(tensor(xs)); });
}

char *talent_download_wait(void *download, void **result) {
  return guarded([&] { *result = new at::Tensor(static_cast<talent::Download *>(download)->wait()); });
}

void talent_download_free(void *download) { delete static_cast<talent::Download *>(download); }

char *talent_version(char **text) {
  return guarded([&] { *text = copy_text(TORCH_VERSION); });
}

char *talent_cpu_description(char **text) {
  return guarded([&] { *text = copy_text((at::get_cpu_capability() + ": " + talent::cpu::described()).c_str()); });
}

void talent_free(char *text) { free(text); }
}
