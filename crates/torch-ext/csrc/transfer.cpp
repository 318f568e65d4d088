// Copies between host and device that the host does not wait for.

#include "transfer.h"

#include <c10/core/impl/VirtualGuardImpl.h>

namespace talent {

at::Tensor upload(const at::Tensor &host, at::Device device) {
  if (device.is_cpu())
    return host.clone();
  // Only from page-locked memory can a device copy by itself; libtorch keeps that memory until it has.
  auto locked = at::empty(host.sizes(), host.options().pinned_memory(true));
  locked.copy_(host);
  return locked.to(device, /*non_blocking=*/true);
}

Download::Download(const at::Tensor &xs) : host_(xs.detach()) {
  if (xs.device().is_cpu())
    return;
  host_ = at::empty(xs.sizes(), xs.options().device(at::kCPU).pinned_memory(true));
  host_.copy_(xs, /*non_blocking=*/true);
  const auto type = xs.device().type();
  ready_.emplace(type);
  ready_->record(c10::impl::VirtualGuardImpl(type).getStream(xs.device()));
}

at::Tensor Download::wait() const {
  if (ready_)
    ready_->synchronize();
  return host_;
}

} // namespace talent
