// Exception guard for every C++ function that Rust calls. Other crates that bind libtorch use it too.
#pragma once
#include <c10/util/Exception.h>

#include <cstring>
#include <exception>

namespace talent {

// Runs `body`. Returns the message of a C++ exception, which must not cross into Rust, or nullptr on success.
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
