//! The operations that layers are made of, by backend.
//!
//! | module      | runs on                    | what it is                                                          |
//! |-------------|----------------------------|---------------------------------------------------------------------|
//! | `cpu`       | the CPU in `f32`           | operations of our own, whose bits do not depend on the threads      |
//! | `cuda`      | CUDA, in `f32`, `f16` and `bf16` | kernels of our own for what moves and combines values, cuBLAS for products |
//! | `reference` | every device, every type   | candle's tensor operations; what the other backends are tested against |
//!
//! A layer chooses among them by `Run::on_cpu` and `Run::on_cuda`. A kernel knows neither networks nor options.

#![expect(
    clippy::inline_always,
    reason = "what is not inlined into a loop for wide vectors is not compiled for them"
)]

pub(crate) mod cpu;
pub(crate) mod cuda;
pub(crate) mod reference;
mod whole;

pub(crate) use whole::Whole;
