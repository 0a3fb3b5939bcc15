//! Whether the kernels may be used.

use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::{Device, Tensor};

use super::launch::suffix;

/// Whether the kernels may be used: they are not where `check` found one that is wrong.
static TRUSTED: AtomicBool = AtomicBool::new(true);

/// Whether the kernels of this build serve tensors on CUDA; they do not after [`check_kernels`](super::check_kernels) found one that is wrong.
pub fn kernels_serve() -> bool {
    TRUSTED.load(Ordering::Relaxed)
}

/// Whether these kernels can work on `x`.
pub(crate) fn serves(x: &Tensor) -> bool {
    matches!(x.device(), Device::Cuda(_)) && suffix(x.dtype()).is_some() && kernels_serve()
}

/// From now on none of the kernels is used in this process.
pub(super) fn distrust() {
    TRUSTED.store(false, Ordering::Relaxed);
}
