// Asynchronous copies between host and device.

#include "transfer.h"

#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <atomic>

namespace talent {

namespace {

std::atomic<bool> separate_stream{false};

// Copies on a separate stream, so that the copy overlaps with the kernels of the previous step.
at::Tensor copy_on_separate_stream(const at::Tensor &pinned, at::Device device) {
  const c10::impl::VirtualGuardImpl gpu(device.type());
  static thread_local const auto copy_stream = gpu.getStreamFromGlobalPool(device);
  const auto current = gpu.getStream(device);
  at::Tensor uploaded;
  {
    c10::StreamGuard guard(copy_stream);
    uploaded = pinned.to(device, /*non_blocking=*/true);
  }
  c10::Event copied(device.type());
  copied.record(copy_stream);
  copied.block(current);
  // The allocator assigned the memory to the copy stream. It must not reuse it before the current stream is done with it.
  gpu.recordDataPtrOnStream(uploaded.storage().data_ptr(), current);
  return uploaded;
}

} // namespace

void upload_beside(bool beside) { separate_stream = beside; }

at::Tensor upload(const at::Tensor &host, at::Device device) {
  if (device.is_cpu())
    return host.clone();
  // An asynchronous copy needs pinned (page-locked) memory. libtorch keeps that memory until the copy is done.
  auto pinned = at::empty(host.sizes(), host.options().pinned_memory(true));
  pinned.copy_(host);
  return separate_stream ? copy_on_separate_stream(pinned, device) : pinned.to(device, /*non_blocking=*/true);
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
