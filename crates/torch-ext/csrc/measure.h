// Measurements: profiler traces, device events, synchronisation counts.
#pragma once
#include "talent_torch.h"

#include <ATen/ATen.h>
#include <c10/core/Event.h>

namespace talent {

// Starts recording this process's operators and, on a GPU, its kernels and copies.
void profile_start(bool cuda);

// Stops recording and calls `event` for each recorded event.
void profile_stop(void *state, talent_trace_event event);

// From now on libtorch warns about operations that make the host wait for a GPU, and this thread counts the warnings.
void count_synchronisations();

// Stops counting and returns the count.
int64_t synchronisations();

// Records an event with its time on the device's current stream.
c10::Event mark(at::Device device);

} // namespace talent
