//! The networks' operations and sizes, from the configurations alone, and what is alive while each one runs.
//!
//! The passes here are those of the real networks, on tensors without values. They announce the same operations in the
//! same order, which a test holds them to. Constants of a process or a device (a CUDA context, the program itself) are
//! not in the figures: see [`prediction`](super::prediction).

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
pub use self::task::{Walk, unet_operations, walk};
