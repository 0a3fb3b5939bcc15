//! The networks' operations and sizes, from the configurations alone, and what is alive while each one runs: the
//! need for memory follows from the model, not from a script.
//!
//! The passes here are the ones of `latentsync`, on tensors without values; they announce the same operations in the
//! same order, which a test holds them to. Constants of a process or a device (a CUDA context, the program itself)
//! are not in the figures: see [`model`](super::model).

mod layers;
mod shape;
mod tape;
#[cfg(test)]
mod tests;
mod unet;
mod vae;
mod whisper;
mod window;

use candle_core::Result;
use latentfarm_common::wire::memory::{MemoryPlan, MemoryStage};

pub use self::shape::{ModelShape, Values, Weights};
use self::tape::Tape;
pub use super::op::Account;
use crate::Levers;
use crate::boundary::Op;

/// What a task does to the device, from loading to the last window's end.
#[derive(Clone, Debug, PartialEq)]
pub struct Walk {
    /// Weights of all three networks, in bytes.
    pub weights_bytes: u64,
    /// In the order in which they run: load, audio, VAE encode, denoise, VAE decode.
    pub stages: Vec<StageCost>,
    /// Every operation of a window with one denoising step, and of one audio window before it.
    pub ops: Vec<Op>,
}

/// Bytes of the device in one stage; weights that are there then are included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StageCost {
    pub stage: MemoryStage,
    /// When it is over.
    pub live_after: u64,
    /// At the highest.
    pub peak: u64,
    /// The operation that was running at the highest, if one was.
    pub at_peak: Option<Op>,
}

impl Walk {
    /// The highest of all stages.
    pub fn peak(&self) -> u64 {
        self.stages.iter().map(|stage| stage.peak).max().unwrap_or(0)
    }

    /// One stage.
    pub fn stage(&self, stage: MemoryStage) -> Option<&StageCost> {
        self.stages.iter().find(|cost| cost.stage == stage)
    }
}

/// Walks a task under the plan `plan`, with classifier-free guidance if `guided`.
///
/// # Errors
/// Where the networks cannot be built from their configurations.
pub fn walk(shape: &ModelShape, account: &Account, plan: MemoryPlan, guided: bool) -> Result<Walk> {
    let weights = shape.weights()?;
    let tape = Tape::new(*account, Levers::of(plan));
    let stages = window::stages(&tape, shape, &weights, guided);
    Ok(Walk {
        weights_bytes: window::all_weights(account, shape, &weights),
        stages,
        ops: tape.into_ops(),
    })
}
