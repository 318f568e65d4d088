// What a GPU does and when: traces, device events, synchronisations.
#pragma once
#include "talent_torch.h"

#include <ATen/ATen.h>
#include <c10/core/Event.h>

namespace talent {

// Starts recording what this process runs: operators and, on a GPU, kernels and copies.
void profile_start(bool cuda);

// Ends the recording and hands over each event.
void profile_stop(void *state, talent_trace_event event);

// From now on libtorch warns of operations that make the host wait for a GPU, and this thread counts them.
void count_synchronisations();

// Ends the counting and returns the count.
int64_t synchronisations();

// A point in the queue of the device's current stream, with its time.
c10::Event mark(at::Device device);

} // namespace talent
