// What every C++ function that Rust calls goes through; also for other crates that bind libtorch.
#pragma once
#include <c10/util/Exception.h>

#include <cstring>
#include <exception>

namespace talent {

// Runs `body`; a C++ exception becomes the returned message, because it must not cross into Rust.
template <typename Body> char *guarded(Body body) {
  try {
    body();
    return nullptr;
  } catch (const c10::Error &error) {
    return strdup(error.what_without_backtrace());
  } catch (const std::exception &error) {
    return strdup(error.what());
  } catch (...) {
    return strdup("unknown C++ exception");
  }
}

} // namespace talent
