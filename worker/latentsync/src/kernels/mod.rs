//! The operations that the layers are made of, in three backends.
//!
//! | module      | runs on                          | what it is                                                             |
//! |-------------|----------------------------------|------------------------------------------------------------------------|
//! | `cpu`       | the CPU in `f32`                 | our own operations, whose bits do not depend on the number of threads  |
//! | `cuda`      | CUDA in `f32`, `f16` and `bf16`  | our own kernels that move and combine values; cuBLAS for products      |
//! | `reference` | every device and type            | candle's tensor operations; the other backends are tested against them |
//!
//! A layer chooses its backend with `Run::on_cpu` and `Run::on_cuda`. The kernels depend neither on the
//! networks nor on a run's options.

#![expect(
    clippy::inline_always,
    reason = "only what is inlined into a SIMD loop is compiled for its vector instructions"
)]

pub(crate) mod cpu;
pub(crate) mod cuda;
mod piecewise;
pub(crate) mod reference;

pub(crate) use piecewise::PiecewiseTensor;
