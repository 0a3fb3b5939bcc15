//! Whether the kernels may be used in this process.

use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::{Device, Tensor};

use super::launch::dtype_suffix;

/// False after `check` has found a kernel that computes wrong results.
static ENABLED: AtomicBool = AtomicBool::new(true);

/// Returns whether our own kernels are used on CUDA. They are not after
/// [`check_kernels`](super::check_kernels) has found one that computes wrong results; the reference backend
/// serves then.
pub fn cuda_kernels_enabled() -> bool {
    ENABLED.load(Ordering::Relaxed)
}

/// Returns whether the kernels work on `x`: it is on CUDA, of a type that they support, and they are enabled.
pub(crate) fn supports(x: &Tensor) -> bool {
    matches!(x.device(), Device::Cuda(_)) && dtype_suffix(x.dtype()).is_some() && cuda_kernels_enabled()
}

/// Disables all kernels in this process.
pub(super) fn disable_kernels() {
    ENABLED.store(false, Ordering::Relaxed);
}
