// Copies between host and device that the host does not wait for.

#include "transfer.h"

#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <atomic>

namespace talent {

namespace {

std::atomic<bool> own_stream{false};

// On a stream of its own, so that the copy goes on beside the kernels of the step before.
at::Tensor copy_beside(const at::Tensor &locked, at::Device device) {
  const c10::impl::VirtualGuardImpl gpu(device.type());
  static thread_local const auto beside = gpu.getStreamFromGlobalPool(device);
  const auto current = gpu.getStream(device);
  at::Tensor there;
  {
    c10::StreamGuard guard(beside);
    there = locked.to(device, /*non_blocking=*/true);
  }
  c10::Event copied(device.type());
  copied.record(beside);
  copied.block(current);
  // The memory belongs to the other stream; it may be used again once this one is through with it.
  gpu.recordDataPtrOnStream(there.storage().data_ptr(), current);
  return there;
}

} // namespace

void upload_beside(bool beside) { own_stream = beside; }

at::Tensor upload(const at::Tensor &host, at::Device device) {
  if (device.is_cpu())
    return host.clone();
  // Only from page-locked memory can a device copy by itself; libtorch keeps that memory until it has.
  auto locked = at::empty(host.sizes(), host.options().pinned_memory(true));
  locked.copy_(host);
  return own_stream ? copy_beside(locked, device) : locked.to(device, /*non_blocking=*/true);
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
