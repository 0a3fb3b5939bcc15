//! The operations that layers are made of, by backend.
//!
//! | module      | runs on                    | what it is                                                          |
//! |-------------|----------------------------|---------------------------------------------------------------------|
//! | `cpu`       | the CPU in `f32`           | operations of our own, whose bits do not depend on the threads      |
//! | `reference` | every device, every type   | candle's tensor operations; what the other backends are tested against |
//!
//! CUDA kernels of our own belong into `kernels/cuda`, beside `cpu`: a layer then chooses them in `layers/own_ops.rs` for
//! tensors on a CUDA device, and their tests compare them with `reference`. A kernel knows neither networks nor options.

#![expect(
    clippy::inline_always,
    reason = "what is not inlined into a loop for wide vectors is not compiled for them"
)]

pub(crate) mod cpu;
pub(crate) mod reference;
mod whole;

pub(crate) use whole::Whole;
