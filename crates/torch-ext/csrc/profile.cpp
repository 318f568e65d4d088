// libtorch's profiler (Kineto), which is also behind PyTorch's `torch.profiler`.

#include "measure.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/autograd/profiler_kineto.h>

#include <cstdlib>
#include <string_view>
#include <unordered_set>

namespace talent {

namespace {

using torch::autograd::profiler::KinetoEvent;

bool starts_with(const std::string &text, std::string_view start) { return text.compare(0, start.size(), start) == 0; }

// Names of the operators that return a view of an argument, according to their schemas. Overloads are not distinguished,
// because the profiler does not report them.
std::unordered_set<std::string> names_of_views() {
  std::unordered_set<std::string> names;
  auto &dispatcher = c10::Dispatcher::singleton();
  for (const auto &name : dispatcher.getAllOpNames()) {
    const auto found = dispatcher.findSchema(name);
    if (!found || !found->hasSchema() || found->schema().returns().empty())
      continue;
    const auto *alias = found->schema().returns()[0].alias_info();
    if (alias != nullptr && !alias->isWrite())
      names.insert(name.name);
  }
  return names;
}

// Whether an operator computes: false if it only makes a view, allocates memory, or returns a value to the host.
bool computes(const std::string &name) {
  for (const char *other : {"aten::empty", "aten::new_empty", "aten::resize_", "aten::set_", "aten::as_strided_",
                            "aten::_unsafe_view", "aten::_reshape_alias", "aten::_local_scalar_dense",
                            "aten::_nnpack_available", "aten::is_nonzero", "aten::item", "aten::result_type"})
    if (starts_with(name, other))
      return false;
  static const auto views = names_of_views();
  return views.count(name) == 0;
}

int kind_of(const KinetoEvent &event) {
  const auto name = event.name();
  if (event.deviceType() == c10::DeviceType::CUDA)
    return starts_with(name, "Memcpy") || starts_with(name, "Memset") ? TALENT_COPY : TALENT_KERNEL;
  if (starts_with(name, "cuda") || starts_with(name, "cu"))
    return TALENT_RUNTIME;
  if (starts_with(name, "aten::") || name.find("::_") != std::string::npos)
    return computes(name) ? TALENT_OPERATOR : TALENT_VIEW;
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
  // Kineto looks for GPUs all the same, and reports an error where there is no driver.
  if (!cuda)
    setenv("KINETO_LOG_LEVEL", "5", /*overwrite=*/0);
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
