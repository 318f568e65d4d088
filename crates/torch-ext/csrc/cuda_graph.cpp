// CUDA graphs. A separate shared library, because this code needs the CUDA headers.

#include "guarded.h"

#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAStream.h>

using at::cuda::CUDAGraph;
using talent::guarded;

extern "C" {

// Switches this thread to another CUDA stream, because the default stream cannot be captured.
char *talent_graph_leave_default_stream(int device_index) {
  return guarded([&] {
    const auto device = static_cast<c10::DeviceIndex>(device_index);
    c10::cuda::device_synchronize();
    if (c10::cuda::getCurrentCUDAStream(device) == c10::cuda::getDefaultCUDAStream(device))
      c10::cuda::setCurrentCUDAStream(c10::cuda::getStreamFromPool(/*isHighPriority=*/false, device));
  });
}

// Starts a capture: until its end, work that this thread queues is recorded instead of executed.
char *talent_graph_begin(void **graph) {
  return guarded([&] {
    c10::cuda::device_synchronize();
    c10::cuda::CUDACachingAllocator::emptyCache();
    auto made = std::make_unique<CUDAGraph>();
    made->capture_begin();
    *graph = made.release();
  });
}

char *talent_graph_end(void *graph) {
  return guarded([&] { static_cast<CUDAGraph *>(graph)->capture_end(); });
}

char *talent_graph_replay(void *graph) {
  return guarded([&] { static_cast<CUDAGraph *>(graph)->replay(); });
}

void talent_graph_free(void *graph) { delete static_cast<CUDAGraph *>(graph); }
}
