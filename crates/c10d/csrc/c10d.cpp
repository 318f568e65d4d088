#include "c10d.h"

#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include <cstdlib>
#include <cstring>
#include <mutex>

// Log level of c10: messages below this level are not printed.
C10_API extern int FLAGS_caffe2_log_level;

using namespace talent_c10d;
using std::chrono::milliseconds;

namespace {

at::Tensor &tensor(void *pointer) { return *static_cast<at::Tensor *>(pointer); }

c10d::ReduceOp operation(int number) {
  switch (number) {
  case 0:
    return c10d::ReduceOp::SUM;
  case 1:
    return c10d::ReduceOp::MIN;
  default:
    return c10d::ReduceOp::MAX;
  }
}

void finish(const c10::intrusive_ptr<c10d::Work> &work) {
  // A failed operation returns false or throws.
  TORCH_CHECK(work->wait(), "a collective operation failed");
}

// Starts an operation. With Gloo it holds a lock: Gloo records each operation in libtorch's flight recorder, one map for all
// groups of this process, and libtorch 2.11 writes to it without a lock (pytorch/pytorch#179449), so groups of several threads
// would race and corrupt it. Starting a Gloo operation does not wait for other processes. Starting an NCCL operation may wait
// for a connection, so it must not hold the lock.
template <typename Start>
c10::intrusive_ptr<c10d::Work> begin(void *group, Start start) {
  static std::mutex recorder;
  auto &backend = *static_cast<GroupHandle *>(group)->backend;
  std::unique_lock<std::mutex> lock(recorder, std::defer_lock);
  if (backend.getBackendName() == "gloo")
    lock.lock();
  return start(backend);
}

} // namespace

extern "C" {

char *talent_c10d_store(const char *host, int port, int serves, int64_t timeout_ms, void **result) {
  return guarded([&] {
    // Besides throwing, c10d logs every failed attempt with a stack trace. The variable is PyTorch's own log level.
    if (std::getenv("TORCH_CPP_LOG_LEVEL") == nullptr)
      FLAGS_caffe2_log_level = 3;
    c10d::TCPStoreOptions options;
    options.port = static_cast<uint16_t>(port);
    options.isServer = serves != 0;
    options.waitWorkers = false;
    options.timeout = milliseconds(timeout_ms);
    *result = new StoreHandle{c10::make_intrusive<c10d::TCPStore>(host, options)};
  });
}

int talent_c10d_store_port(void *store) {
  auto &held = static_cast<StoreHandle *>(store)->store;
  return static_cast<c10d::TCPStore *>(held.get())->getPort();
}

char *talent_c10d_store_set(void *store, const char *key, const uint8_t *data, int64_t n) {
  return guarded([&] { static_cast<StoreHandle *>(store)->store->set(key, std::vector<uint8_t>(data, data + n)); });
}

// Waits until the key exists and returns its value.
char *talent_c10d_store_get(void *store, const char *key, int64_t timeout_ms, uint8_t **data, int64_t *n) {
  return guarded([&] {
    auto &held = static_cast<StoreHandle *>(store)->store;
    held->wait({key}, milliseconds(timeout_ms));
    const auto value = held->get(key);
    *n = static_cast<int64_t>(value.size());
    *data = static_cast<uint8_t *>(std::malloc(value.size() + 1));
    TORCH_CHECK(*data != nullptr, "out of memory");
    std::memcpy(*data, value.data(), value.size());
  });
}

void talent_c10d_store_free(void *store) { delete static_cast<StoreHandle *>(store); }

char *talent_c10d_all_reduce(void *group, void *xs, int op) {
  return guarded([&] {
    std::vector<at::Tensor> list{tensor(xs)};
    c10d::AllreduceOptions options;
    options.reduceOp = operation(op);
    finish(begin(group, [&](auto &backend) { return backend.allreduce(list, options); }));
  });
}

// Starts an asynchronous all-reduce. `xs` must not be used until it has ended.
char *talent_c10d_all_reduce_start(void *group, void *xs, int op, void **work) {
  return guarded([&] {
    std::vector<at::Tensor> list{tensor(xs)};
    c10d::AllreduceOptions options;
    options.reduceOp = operation(op);
    *work = new WorkHandle{begin(group, [&](auto &backend) { return backend.allreduce(list, options); })};
  });
}

// Waits for an asynchronous operation. On a GPU only the current CUDA stream waits, not the host.
char *talent_c10d_work_wait(void *work) {
  return guarded([&] { finish(static_cast<WorkHandle *>(work)->work); });
}

void talent_c10d_work_free(void *work) { delete static_cast<WorkHandle *>(work); }

char *talent_c10d_broadcast(void *group, void *xs, int64_t root) {
  return guarded([&] {
    std::vector<at::Tensor> list{tensor(xs)};
    c10d::BroadcastOptions options;
    options.rootRank = root;
    finish(begin(group, [&](auto &backend) { return backend.broadcast(list, options); }));
  });
}

// results: one tensor of the shape of `xs` per process, in the order of their ranks.
char *talent_c10d_all_gather(void *group, void *xs, void **results, int64_t n) {
  return guarded([&] {
    std::vector<at::Tensor> inputs{tensor(xs)};
    std::vector<std::vector<at::Tensor>> outputs(1);
    for (int64_t i = 0; i < n; ++i)
      outputs[0].push_back(tensor(results[i]));
    const c10d::AllgatherOptions options;
    finish(begin(group, [&](auto &backend) { return backend.allgather(outputs, inputs, options); }));
  });
}

char *talent_c10d_barrier(void *group) {
  return guarded([&] {
    const c10d::BarrierOptions options;
    finish(begin(group, [&](auto &backend) { return backend.barrier(options); }));
  });
}

void talent_c10d_group_free(void *group) { delete static_cast<GroupHandle *>(group); }

void talent_c10d_free(void *memory) { std::free(memory); }
}
