//! Operations of our own on CUDA: those that only move and combine values, each in one pass over memory. Products are
//! cuBLAS's. Every value is computed in `f32` and rounded once; results depend on the inputs and the shapes alone.
//!
//! The kernels are in `kernels.cu`. `check` compares each of them with the reference backend on the device itself.

mod attention;
mod check;
mod conv2d;
mod finish;
mod launch;
mod norm;
mod rows;
mod serve;

pub(crate) use attention::{attention, dense};
pub use check::{KernelCheck, check_kernels, relative_distance};
pub(crate) use conv2d::conv2d;
pub(crate) use finish::{Finish, finish_rows};
pub(crate) use norm::{group_norm, layer_norm};
pub(crate) use rows::{add_to_frames, geglu, gelu, transpose};
pub use serve::kernels_serve;
pub(crate) use serve::serves;
