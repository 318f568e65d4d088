// C interface of the shim: plain integers, pointers to at::Tensor, and error strings that the caller frees.
#pragma once
#include <cstdint>

extern "C" {
// Backward function: computes the gradients of n inputs from the gradient of a value (at::Tensor *, borrowed). Stores new
// tensors; an entry stays null if its input has no gradient. Returns 0 on success.
typedef int (*talent_gradient)(void *state, void *grad_value, void **grad_inputs, int64_t n);

// Receives one event of a profile: name, kind, start and end in nanoseconds, thread.
enum talent_trace_kind { TALENT_OPERATOR, TALENT_VIEW, TALENT_RUNTIME, TALENT_KERNEL, TALENT_COPY, TALENT_OTHER };
typedef void (*talent_trace_event)(void *state, const char *name, int kind, uint64_t start, uint64_t end,
                                   uint64_t thread);

// Every function returns nullptr on success, otherwise a malloc'ed message.
char *talent_autocast_get(int cuda, int *enabled, int *scalar_type);
char *talent_autocast_set(int cuda, int enabled, int scalar_type);
char *talent_autocast_clear_cache();
char *talent_generator_get_state(int device_index, void **state);
char *talent_generator_set_state(int device_index, void *state);
// lr_factor: a float32 scalar on the parameters' device that multiplies lr. May be null.
// found_inf: one float32; if it is 1, the update is skipped. May be null.
char *talent_fused_adam(void **params, void **grads, void **exp_avgs, void **exp_avg_sqs, void **steps, int64_t n,
                        double lr, double beta1, double beta2, double eps, double weight_decay, void *lr_factor,
                        void *found_inf);
char *talent_unscale_and_check(void **grads, int64_t n, void *found_inf, void *inv_scale);
char *talent_cuda_peak_bytes(int device_index, int64_t *allocated);
char *talent_cuda_reset_peak(int device_index);
char *talent_allow_tf32(int allowed);
char *talent_tf32_products(int allowed, int *before);
// Number of in-place writes to a tensor.
uint64_t talent_write_count(void *xs);
// Sets whether libtorch fills uninitialised memory with NaN.
char *talent_poison_memory(int poison);
// Sets whether CPU tensors use this shim's kernels or libtorch's own.
void talent_cpu_kernels(int enabled);
// xs + update * scale, with an update of any dtype. in_dtype: whether the result has the dtype of xs.
char *talent_scaled_sum(void *xs, void *update, void *scale, int in_dtype, void **result);
char *talent_layer_norm(void *xs, void *weight, void *bias, double eps, void **result);
// scalar_type: dtype of matrix products; with float32 nothing is cast.
char *talent_lower_weights(int scalar_type);
void talent_forget_lowered();
char *talent_lowered(void *weight, void **result);
// Sets the gradients of the parameters to undefined.
char *talent_clear_gradients(void **params, int64_t n);
char *talent_profile_start(int cuda);
char *talent_profile_stop(void *state, talent_trace_event event);
char *talent_count_synchronisations();
char *talent_synchronisations(int64_t *n);
char *talent_mark(int device_index, void **mark);
// Milliseconds from one mark to another. Waits for both.
char *talent_mark_elapsed(void *first, void *second, double *milliseconds);
void talent_mark_free(void *mark);
// bias may be null.
char *talent_linear(void *x, void *weight, void *bias, void **result);
char *talent_attention(void *queries, void *keys, void *values, double dropout, void **result);
char *talent_dropout(void *xs, double probability, void **result);
// Returns the value with a backward pass that calls `gradient`. Takes ownership of `state`; `release` frees it.
char *talent_custom_gradient(void **inputs, int64_t n, void *value, void *state, talent_gradient gradient,
                             void (*release)(void *), void **result);
// Asynchronous copies of a tensor to a device and back. They may still be running on return.
void talent_upload_beside(int beside);
char *talent_upload(void *host, int device_index, void **result);
char *talent_download_start(void *xs, void **download);
char *talent_download_wait(void *download, void **result);
void talent_download_free(void *download);
char *talent_version(char **text);
// Vector instructions that libtorch uses, and kernels of this shim that serve.
char *talent_cpu_description(char **text);
void talent_free(char *text);
}
