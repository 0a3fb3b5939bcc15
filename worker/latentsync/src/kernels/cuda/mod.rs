//! Our own operations on CUDA. They only move and combine values, each in one pass over memory; cuBLAS
//! computes the products. Every value is computed in `f32` and rounded once, and results depend on the inputs
//! and the shapes alone.
//!
//! The kernels are in `kernels.cu`. When an engine opens its device, `check` compares each of them with the
//! reference backend there.

mod attention;
mod availability;
mod build_info;
mod check;
mod conv2d;
mod elementwise;
mod epilogue;
mod launch;
mod norm;

pub(crate) use attention::{attention, dense};
pub use availability::cuda_kernels_enabled;
pub(crate) use availability::supports;
pub use build_info::{CudaBuild, cuda_build, cuda_dtypes};
pub use check::{KernelCheck, check_kernels, relative_distance};
pub(crate) use conv2d::conv2d;
pub(crate) use elementwise::{add_to_frames, geglu, gelu, transpose};
pub(crate) use epilogue::{Epilogue, add_epilogue_to_rows};
pub(crate) use norm::{group_norm, layer_norm};
