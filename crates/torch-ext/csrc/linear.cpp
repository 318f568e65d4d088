#include "cpu_kernels.h"
#include "layers.h"
#include "lowered.h"

#include <ATen/autocast_mode.h>

#include <unordered_map>

namespace talent {

// Autocast's own cache holds casts of trained weights only, and only until its guard is dropped. It would cast a frozen weight
// at every use.
at::Tensor cached_cast(const at::Tensor &weight, at::ScalarType type) {
  struct Kept {
    c10::weak_intrusive_ptr<at::TensorImpl> weight;
    uint32_t version;
    at::Tensor copy;
  };
  // Never destroyed: at exit, a device may be shut down before the threads that used it.
  static thread_local auto &copies = *new std::unordered_map<at::TensorImpl *, Kept>;
  auto *key = weight.unsafeGetTensorImpl();
  auto found = copies.find(key);
  if (found != copies.end()) {
    const auto &kept = found->second;
    const bool same = kept.weight.lock().get() == key && kept.version == weight._version();
    if (same && kept.copy.scalar_type() == type)
      return kept.copy;
    copies.erase(found);
  }
  for (auto other = copies.begin(); other != copies.end();)
    other = other->second.weight.expired() ? copies.erase(other) : std::next(other);
  auto copy = weight.detach().to(type);
  copies.emplace(key, Kept{c10::weak_intrusive_ptr<at::TensorImpl>(weight.getIntrusivePtr()), weight._version(), copy});
  return copy;
}

at::Tensor linear(const at::Tensor &x, const at::Tensor &w, const std::optional<at::Tensor> &bias) {
  const auto device = x.device().type();
  if (at::autocast::is_autocast_enabled(device)) {
    const auto type = at::autocast::get_autocast_dtype(device);
    const auto operand = [&](const at::Tensor &xs) {
      const bool frozen = !(at::GradMode::is_enabled() && xs.requires_grad()) && xs.is_leaf() && !xs.is_view();
      return frozen && xs.scalar_type() == at::kFloat ? cached_cast(xs, type) : lowered(xs);
    };
    return at::linear(x, operand(w), bias ? std::optional<at::Tensor>(operand(*bias)) : std::nullopt);
  }
  if (auto ours = cpu::linear(x, w, bias))
    return *ours;
  return at::linear(x, w, bias);
}

} // namespace talent
