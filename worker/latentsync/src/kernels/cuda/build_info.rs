//! What the CUDA part of this build was made for.

use candle_core::DType;

/// The GPUs and the drivers that a CUDA build runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CudaBuild {
    /// Compute capability of the oldest GPU, times ten: 75 for 7.5.
    pub capability: u32,
    /// Version of CUDA, such as `13.0`, that the driver must support.
    pub toolkit: &'static str,
}

/// The build's own data; `None` if it has no CUDA.
pub fn cuda_build() -> Option<CudaBuild> {
    let capability = option_env!("LATENTSYNC_CUDA_CAPABILITY")?.parse().ok()?;
    let toolkit = option_env!("LATENTSYNC_CUDA_TOOLKIT")?;
    Some(CudaBuild { capability, toolkit })
}

/// The number types that this build computes in on CUDA. Kernels for `bf16` need compute capability 8.0.
pub fn cuda_dtypes() -> &'static [DType] {
    const ALL: [DType; 3] = [DType::F32, DType::F16, DType::BF16];
    let has_bf16 = cuda_build().is_none_or(|build| build.capability >= 80);
    if has_bf16 { &ALL } else { &ALL[..2] }
}
