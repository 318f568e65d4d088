// Records a network's forward pass as a TorchScript module with the network's parameters.
//
// A trace holds sizes as numbers. Two traces with other batch sizes have the same operations, and where their numbers differ, the
// number depends on the batch: there it is computed from the input. Devices are those of the input, and constants become buffers,
// so that the module moves to another device as a whole.

#include "guarded.h"
#include "script.h"

#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/frontend/tracer.h>
#include <torch/csrc/jit/passes/dead_code_elimination.h>
#include <torch/csrc/jit/passes/normalize_ops.h>

#include <map>
#include <string>
#include <vector>

namespace {

namespace jit = torch::jit;

// Modules without the attribute cannot be frozen.
jit::Module module_in_eval_mode(jit::Module made) {
  made.register_attribute("training", c10::BoolType::get(), false);
  return made;
}

struct Trace {
  jit::Module module = module_in_eval_mode(jit::Module("Talent"));
  std::shared_ptr<jit::tracer::TracingState> state = std::make_shared<jit::tracer::TracingState>();
  jit::Value *pixels = nullptr;
  int64_t batch = 0;
};

// `a.b.c` as `a.b` and `c`; the first is empty for a name without a dot.
std::pair<std::string, std::string> split_name(const std::string &name) {
  const auto dot = name.rfind('.');
  return dot == std::string::npos ? std::pair(std::string(), name) : std::pair(name.substr(0, dot), name.substr(dot + 1));
}

// Registers tensors below their dotted names, and tells the tracer which value each of them is.
class Registration {
public:
  explicit Registration(Trace &trace) : trace_(trace) {}

  void add(const std::string &name, const at::Tensor &tensor, bool is_buffer) {
    const auto [path, own] = split_name(name);
    auto owner = module(path);
    if (is_buffer)
      owner.register_buffer(own, tensor.detach());
    else
      owner.register_parameter(own, tensor.detach(), /*is_buffer=*/false);
    entries_.emplace_back(name, tensor);
  }

  // Once all are added: the types of the modules are complete.
  void announce(jit::Value *self) {
    values_[""] = self;
    for (const auto &[name, tensor] : entries_)
      trace_.state->setValue(tensor, value(name));
  }

private:
  jit::Module module(const std::string &path) {
    if (path.empty())
      return trace_.module;
    const auto known = modules_.find(path);
    if (known != modules_.end())
      return known->second;
    const auto [parent_path, own] = split_name(path);
    auto parent = module(parent_path);
    const auto type = "Part_" + std::to_string(modules_.size());
    auto made = module_in_eval_mode(jit::Module(type, parent._ivalue()->compilation_unit()));
    parent.register_module(own, made);
    modules_.emplace(path, made);
    return made;
  }

  jit::Value *value(const std::string &path) {
    const auto known = values_.find(path);
    if (known != values_.end())
      return known->second;
    const auto [parent, own] = split_name(path);
    return values_[path] = trace_.state->graph->insertGetAttr(value(parent), own);
  }

  Trace &trace_;
  std::map<std::string, jit::Module> modules_;
  std::map<std::string, jit::Value *> values_;
  std::vector<std::pair<std::string, at::Tensor>> entries_;
};

bool is_constant_of(jit::Node *node, jit::AttributeKind kind) {
  return node->kind() == jit::prim::Constant && node->hasAttribute(jit::attr::value) &&
         node->kindOf(jit::attr::value) == kind;
}

// The factor of a number that grows with the batch.
int64_t factor(int64_t one, int64_t one_batch, int64_t other, int64_t other_batch) {
  TORCH_CHECK(one % one_batch == 0 && one / one_batch * other_batch == other, "a size is ", one, " for a batch of ",
              one_batch, " and ", other, " for one of ", other_batch, ": it is no multiple of the batch");
  return one / one_batch;
}

// Values at the beginning of a graph, made when they are first needed.
class Beginning {
public:
  explicit Beginning(Trace &trace) : graph_(*trace.state->graph), pixels_(trace.pixels), place_(*graph_.nodes().begin()) {}

  jit::Value *device() {
    if (!device_) {
      device_ = insert(graph_.create(jit::prim::device, {pixels_}));
      device_->setType(c10::DeviceObjType::get());
    }
    return device_;
  }

  jit::Value *batch(int64_t factor) {
    auto &known = batches_[factor];
    if (known)
      return known;
    if (factor != 1)
      return known = integer(jit::aten::mul, batch(1), constant(factor));
    return known = integer(jit::aten::size, pixels_, constant(0));
  }

private:
  jit::Value *insert(jit::Node *node) { return node->insertBefore(place_)->output(); }

  jit::Value *constant(int64_t number) {
    jit::WithInsertPoint here(place_);
    return graph_.insertConstant(number);
  }

  jit::Value *integer(c10::Symbol operation, jit::Value *left, jit::Value *right) {
    const auto value = insert(graph_.create(operation, {left, right}));
    value->setType(c10::IntType::get());
    return value;
  }

  jit::Graph &graph_;
  jit::Value *pixels_;
  jit::Node *place_;
  jit::Value *device_ = nullptr;
  std::map<int64_t, jit::Value *> batches_;
};

std::vector<jit::Node *> nodes_of(Trace &trace) {
  std::vector<jit::Node *> nodes;
  for (const auto node : trace.state->graph->nodes()) {
    TORCH_CHECK(node->blocks().empty(), "the trace has a nested block: ", node->kind().toQualString());
    nodes.push_back(node);
  }
  return nodes;
}

void free_of_batch_and_device(Trace &trace, Trace &other) {
  const auto nodes = nodes_of(trace), others = nodes_of(other);
  TORCH_CHECK(nodes.size() == others.size(), "the operations depend on the batch size: ", nodes.size(), " and ",
              others.size());
  Beginning beginning(trace);
  int64_t n_constants = 0;
  for (size_t place = 0; place < nodes.size(); ++place) {
    const auto node = nodes[place], twin = others[place];
    TORCH_CHECK(node->kind() == twin->kind(), "the operations depend on the batch size: ", node->kind().toQualString(),
                " and ", twin->kind().toQualString());
    if (node->kind() != jit::prim::Constant)
      continue;
    const auto type = node->output()->type();
    if (is_constant_of(node, jit::AttributeKind::i) && type->isSubtypeOf(*c10::IntType::get())) {
      const auto number = node->i(jit::attr::value), twins = twin->i(jit::attr::value);
      if (number != twins)
        node->output()->replaceAllUsesWith(beginning.batch(factor(number, trace.batch, twins, other.batch)));
    } else if (type->isSubtypeOf(*c10::DeviceObjType::get())) {
      node->output()->replaceAllUsesWith(beginning.device());
    } else if (is_constant_of(node, jit::AttributeKind::t)) {
      const auto &value = node->t(jit::attr::value);
      TORCH_CHECK(value.equal(twin->t(jit::attr::value)), "a constant depends on the batch size");
      const auto name = "constant_" + std::to_string(n_constants++);
      trace.module.register_buffer(name, value);
      jit::WithInsertPoint here(node);
      const auto self = trace.state->graph->inputs()[0];
      node->output()->replaceAllUsesWith(trace.state->graph->insertGetAttr(self, name));
    }
  }
}

} // namespace

extern "C" {

char *talent_trace_begin(const char **names, void **tensors, const int *are_buffers, int64_t n, void *pixels, void *ids,
                         void **trace) {
  return talent::guarded([&] {
    auto made = std::make_unique<Trace>();
    Registration registration(*made);
    for (int64_t index = 0; index < n; ++index)
      registration.add(names[index], *static_cast<at::Tensor *>(tensors[index]), are_buffers[index] != 0);
    auto &graph = *made->state->graph;
    const auto self = graph.addInput("self");
    self->setType(made->module._ivalue()->type());
    registration.announce(self);
    const auto input = [&](const char *name, void *tensor) {
      const auto value = graph.addInput(name);
      value->setType(c10::TensorType::get());
      made->state->setValue(*static_cast<at::Tensor *>(tensor), value);
      return value;
    };
    made->pixels = input("pixels", pixels);
    input("ids", ids);
    made->batch = static_cast<at::Tensor *>(pixels)->size(0);
    jit::tracer::setTracingState(made->state);
    *trace = made.release();
  });
}

// output: null if the pass failed, which only ends the recording.
char *talent_trace_end(void *trace, void *output) {
  return talent::guarded([&] {
    auto &made = *static_cast<Trace *>(trace);
    struct End {
      ~End() { jit::tracer::setTracingState(nullptr); }
    } end;
    if (output)
      made.state->graph->registerOutput(made.state->getOutput(*static_cast<at::Tensor *>(output), 0));
  });
}

void talent_trace_free(void *trace) { delete static_cast<Trace *>(trace); }

char *talent_trace_save(void *trace, void *other, const char *path, const char *note_name, const char *note) {
  return talent::guarded([&] {
    auto &made = *static_cast<Trace *>(trace);
    auto &graph = made.state->graph;
    free_of_batch_and_device(made, *static_cast<Trace *>(other));
    jit::NormalizeOps(graph);
    jit::EliminateDeadCode(graph);
    const auto type = made.module.type();
    const auto function = made.module._ivalue()->compilation_unit()->create_function(
        c10::QualifiedName(*type->name(), "forward"), graph);
    type->addMethod(function);
    made.module.save(path, {{note_name, note}});
  });
}

} // extern "C"
