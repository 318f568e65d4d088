#include "lowered.h"

#include <unordered_map>
#include <vector>

namespace talent {

namespace {

struct State {
  bool on = false;
  // Weights requested in the previous pass, in order. The pointers are weak, because a network may have been freed since.
  std::vector<c10::weak_intrusive_ptr<at::TensorImpl>> requested;
  std::unordered_map<at::TensorImpl *, at::Tensor> cast;
};

State &state() {
  // Never destroyed: at exit, a device may be shut down before the threads that used it.
  static thread_local auto &state = *new State;
  return state;
}

} // namespace

void lower_weights(at::ScalarType type) {
  auto &held = state();
  held.cast.clear();
  std::vector<at::Tensor> weights, flat;
  std::vector<int64_t> sizes;
  for (const auto &weak : held.requested) {
    auto weight = weak.lock();
    if (!weight)
      continue;
    auto tensor = at::Tensor(c10::intrusive_ptr<at::TensorImpl>(std::move(weight)));
    const bool fits = tensor.scalar_type() == at::kFloat && tensor.requires_grad() &&
                      (weights.empty() || tensor.device() == weights[0].device());
    if (!fits)
      continue;
    weights.push_back(tensor);
    flat.push_back(tensor.reshape({-1}));
    sizes.push_back(tensor.numel());
  }
  held.requested.clear();
  held.on = type != at::kFloat;
  if (!held.on || weights.empty())
    return;
  const auto parts = at::cat(flat).to(type).split_with_sizes(sizes);
  for (size_t i = 0; i < weights.size(); ++i)
    held.cast.emplace(weights[i].unsafeGetTensorImpl(), parts[i].view(weights[i].sizes()));
  for (const auto &weight : weights)
    held.requested.emplace_back(weight.getIntrusivePtr());
}

void forget_lowered() {
  state().on = false;
  state().cast.clear();
}

at::Tensor lowered(const at::Tensor &weight) {
  auto &held = state();
  if (!held.on || !weight.requires_grad() || !weight.is_leaf())
    return weight;
  const auto found = held.cast.find(weight.unsafeGetTensorImpl());
  if (found != held.cast.end())
    return found->second;
  // A weight can be requested several times in a pass; the list holds it once.
  for (const auto &known : held.requested)
    if (known.lock().get() == weight.unsafeGetTensorImpl())
      return weight;
  held.requested.emplace_back(weight.getIntrusivePtr());
  return weight;
}

} // namespace talent
