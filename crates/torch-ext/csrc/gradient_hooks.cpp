// Hooks that are called during the backward pass as soon as a parameter's gradient is complete.

#include "guarded.h"
#include "talent_torch.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/variable.h>

#include <memory>
#include <vector>

namespace {

using torch::autograd::FunctionPostHook;
using torch::autograd::Node;
using torch::autograd::variable_list;

struct Call : FunctionPostHook {
  Call(void *state, int64_t place, int (*done)(void *, int64_t)) : state(state), place(place), done(done) {}

  variable_list operator()(const variable_list &outputs, const variable_list &) override {
    TORCH_CHECK(done(state, place) == 0, "a gradient hook failed");
    return outputs;
  }

  void *state;
  int64_t place;
  int (*done)(void *, int64_t);
};

// Owns the hooks of a list of parameters and removes them when destroyed.
struct Hooks {
  explicit Hooks(void *state, void (*release)(void *)) : state(state), release(release) {}
  ~Hooks() {
    for (auto &[node, key] : held)
      node->del_post_hook(key);
    release(state);
  }

  void *state;
  void (*release)(void *);
  // Gradient accumulator nodes and hook keys. A parameter has only a weak pointer to its node, so the node is kept alive here.
  std::vector<std::pair<std::shared_ptr<Node>, uintptr_t>> held;
};

} // namespace

extern "C" {

// `done` is called with a parameter's index in the list when a backward pass has accumulated its whole gradient. Takes
// ownership of `state`.
char *talent_gradient_hooks(void **parameters, int64_t n, void *state, int (*done)(void *, int64_t),
                            void (*release)(void *), void **result) {
  auto hooks = std::make_unique<Hooks>(state, release);
  return talent::guarded([&] {
    for (int64_t place = 0; place < n; ++place) {
      const auto &parameter = *static_cast<at::Tensor *>(parameters[place]);
      auto node = torch::autograd::impl::grad_accumulator(parameter);
      TORCH_CHECK(node, "tensor ", place, " has no gradient of its own");
      const auto key = node->add_post_hook(std::make_unique<Call>(state, place, done));
      hooks->held.emplace_back(std::move(node), key);
    }
    *result = hooks.release();
  });
}

void talent_gradient_hooks_free(void *hooks) { delete static_cast<Hooks *>(hooks); }
}
