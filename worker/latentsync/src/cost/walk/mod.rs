//! The walk computes the operations of the networks with their sizes, and the memory that is allocated while
//! each one runs, from the configurations alone.
//!
//! The passes are those of the real networks, but on tensors without values. They record the same operations
//! in the same order as the hooks of the real networks, which a test checks. The constant memory of a process
//! or a device (the program itself, a CUDA context) is not in the figures; [`prediction`](super::prediction)
//! adds it.

mod resident;
mod stage;
mod task;
mod tensor;
#[cfg(test)]
mod tests;
mod tracker;
mod unet;
mod vae;
mod whisper;
mod window;

pub use self::stage::StageMemory;
pub(crate) use self::task::{Walk, unet_operations, walk};
