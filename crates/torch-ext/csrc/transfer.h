// Asynchronous copies between host and device.
#pragma once
#include <ATen/ATen.h>
#include <c10/core/Event.h>

#include <optional>

namespace talent {

// Copies `host` to the device asynchronously. The copy may still be running on return; work queued on the device afterwards
// waits for it. `host` may be changed after the return.
at::Tensor upload(const at::Tensor &host, at::Device device);

// Sets whether uploads use a separate stream, concurrently with the device's other work.
void upload_beside(bool beside);

// An asynchronous copy of a tensor to the host.
class Download {
public:
  explicit Download(const at::Tensor &xs);

  // Waits for the copy, not for later work of the device, and returns the tensor on the host.
  at::Tensor wait() const;

private:
  at::Tensor host_;
  std::optional<c10::Event> ready_;
};

} // namespace talent
