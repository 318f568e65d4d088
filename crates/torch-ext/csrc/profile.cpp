// libtorch's own profiler (Kineto), whose events PyTorch's `torch.profiler` shows, too.

#include "measure.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/autograd/profiler_kineto.h>

#include <string_view>

namespace talent {

namespace {

using torch::autograd::profiler::KinetoEvent;

bool starts_with(const std::string &text, std::string_view start) { return text.compare(0, start.size(), start) == 0; }

// Whether an operator only makes another view of memory, or memory: neither reads or writes a value.
bool computes(const std::string &name, const std::string &overload) {
  for (const char *allocates : {"aten::empty", "aten::new_empty", "aten::resize_", "aten::set_", "aten::detach"})
    if (starts_with(name, allocates))
      return false;
  auto found = c10::Dispatcher::singleton().findSchema({name, overload});
  if (!found)
    return true;
  const auto &returns = found->schema().returns();
  if (returns.empty())
    return true;
  const auto *alias = returns[0].alias_info();
  return alias == nullptr || alias->isWrite();
}

int kind_of(const KinetoEvent &event) {
  const auto name = event.name();
  if (event.deviceType() == c10::DeviceType::CUDA)
    return starts_with(name, "Memcpy") || starts_with(name, "Memset") ? TALENT_COPY : TALENT_KERNEL;
  if (starts_with(name, "cuda") || starts_with(name, "cu"))
    return TALENT_RUNTIME;
  if (starts_with(name, "aten::") || name.find("::_") != std::string::npos)
    return computes(name, event.overload_name()) ? TALENT_OPERATOR : TALENT_VIEW;
  return TALENT_OTHER;
}

std::set<torch::profiler::impl::ActivityType> activities(bool cuda) {
  using torch::profiler::impl::ActivityType;
  std::set<ActivityType> kinds{ActivityType::CPU};
  if (cuda)
    kinds.insert(ActivityType::CUDA);
  return kinds;
}

} // namespace

void profile_start(bool cuda) {
  using namespace torch::profiler::impl;
  const ProfilerConfig config(ProfilerState::KINETO);
  torch::autograd::profiler::prepareProfiler(config, activities(cuda));
  torch::autograd::profiler::enableProfiler(config, activities(cuda), {at::RecordScope::FUNCTION});
}

void profile_stop(void *state, talent_trace_event event) {
  const auto result = torch::autograd::profiler::disableProfiler();
  for (const auto &each : result->events()) {
    const auto name = each.name();
    event(state, name.c_str(), kind_of(each), each.startNs(), each.endNs(), each.startThreadId());
  }
}

} // namespace talent
