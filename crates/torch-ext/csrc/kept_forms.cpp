#include "kept_forms.h"

#include <unordered_map>
#include <vector>

namespace talent {

namespace {

struct Kept {
  Form form;
  at::Tensor tensor;
};

struct Forms {
  c10::weak_intrusive_ptr<at::TensorImpl> weight;
  uint32_t version;
  std::vector<Kept> kept;

  bool of(const at::Tensor &current) const {
    return weight.lock().get() == current.unsafeGetTensorImpl() && version == current._version();
  }
};

} // namespace

at::Tensor kept_form(const at::Tensor &weight, Form form, at::ScalarType type, const std::function<at::Tensor()> &make) {
  // Never destroyed: at exit, a device may be shut down before the threads that used it.
  static thread_local auto &all = *new std::unordered_map<at::TensorImpl *, Forms>;
  auto *key = weight.unsafeGetTensorImpl();
  auto found = all.find(key);
  if (found != all.end() && !found->second.of(weight)) {
    all.erase(found);
    found = all.end();
  }
  if (found == all.end()) {
    for (auto other = all.begin(); other != all.end();)
      other = other->second.weight.expired() ? all.erase(other) : std::next(other);
    Forms forms{c10::weak_intrusive_ptr<at::TensorImpl>(weight.getIntrusivePtr()), weight._version(), {}};
    found = all.emplace(key, std::move(forms)).first;
  }
  auto &kept = found->second.kept;
  for (auto one = kept.begin(); one != kept.end(); ++one) {
    if (one->form != form)
      continue;
    if (one->tensor.scalar_type() == type)
      return one->tensor;
    kept.erase(one);
    break;
  }
  kept.push_back({form, make()});
  return kept.back().tensor;
}

} // namespace talent
