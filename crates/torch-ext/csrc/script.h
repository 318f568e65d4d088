// C interface of script.cpp; as in talent_torch.h, functions return nullptr or a malloc'ed message.
#pragma once
#include <cstdint>

extern "C" {
// Begins to record what the calling thread computes. The tensors are the network's parameters and buffers.
char *talent_trace_begin(const char **names, void **tensors, const int *are_buffers, int64_t n, void *pixels, void *ids,
                         void **trace);
char *talent_trace_end(void *trace, void *output);
void talent_trace_free(void *trace);
// Saves the first trace as a module; the other one has another batch size.
char *talent_trace_save(void *trace, void *other, const char *path, const char *note_name, const char *note);
}
