// Copies between host and device that the host does not wait for.
#pragma once
#include <ATen/ATen.h>
#include <c10/core/Event.h>

#include <optional>

namespace talent {

// A copy on the device, which may still be on its way; what the device is asked for next comes after it. `host` may change
// as soon as this returns.
at::Tensor upload(const at::Tensor &host, at::Device device);

// Whether uploads go on beside the device's other work, on a stream of their own.
void upload_beside(bool beside);

// A tensor on its way to the host.
class Download {
public:
  explicit Download(const at::Tensor &xs);

  // The tensor on the host, once it is there; later work of the device is not waited for.
  at::Tensor wait() const;

private:
  at::Tensor host_;
  std::optional<c10::Event> ready_;
};

} // namespace talent
