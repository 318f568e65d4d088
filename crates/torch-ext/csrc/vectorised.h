// Compiles a loop for several vector widths; the widest one that the processor supports is chosen at run time.
#pragma once

#if defined(__x86_64__) && defined(__GNUC__)
#define TALENT_VECTORISED __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define TALENT_VECTORISED
#endif
