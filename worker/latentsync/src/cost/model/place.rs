//! What is on the device all along in each stage: weights, what the host holds, conditions.

use candle_core::Result;
use latentfarm_common::wire::memory::{DeviceKind, MemoryStage};

use super::Term;
use crate::Levers;
use crate::boundary::Op;
use crate::cost::op::{Account, Cost, Details, cost};
use crate::cost::walk::{ModelShape, Values, Weights};

const F32: usize = 4;
/// Channels of latents, and of all that the UNet sees.
const LATENT: usize = 4;
const SEEN: usize = 13;
/// Encoded audio windows that the host holds, about.
const AUDIO_WINDOWS: usize = 2;

pub(super) struct Place<'a> {
    pub(super) shape: &'a ModelShape,
    pub(super) account: Account,
    pub(super) levers: Levers,
    guided: bool,
    /// Samples in one pass of the UNet.
    pub(super) batch: usize,
    weights: Weights,
}

/// Bytes of so many values.
pub(super) fn bytes(values: usize, each: usize) -> u64 {
    values as u64 * each as u64
}

impl<'a> Place<'a> {
    pub(super) fn new(
        shape: &'a ModelShape,
        account: &Account,
        levers: Levers,
        guided: bool,
    ) -> Result<Self> {
        let together = guided && levers.batched_guidance && account.kind == DeviceKind::Cuda;
        Ok(Self {
            shape,
            account: *account,
            levers,
            guided,
            batch: if together { 2 } else { 1 },
            weights: shape.weights()?,
        })
    }

    /// Bytes a value of the networks' type.
    pub(super) fn each(&self) -> usize {
        self.account.bytes_per_value
    }

    /// What an operation takes besides its operands.
    pub(super) fn cost(&self, op: Op, details: Details) -> Cost {
        cost(op, details, &self.account, self.levers.limits)
    }

    /// Weights that are on the device in a stage.
    fn weights(&self, stage: MemoryStage) -> u64 {
        let host = self.shape.host_bytes;
        let of = |values: Values, on_host: usize| match self.account.kind {
            DeviceKind::Cpu => bytes(values.layers, on_host),
            DeviceKind::Cuda => bytes(values.layers, self.each()),
        };
        let Weights { unet, vae, whisper } = self.weights;
        let rest = bytes(self.weights.rest(), self.each());
        let (unet, vae, whisper) = (of(unet, host.unet), of(vae, host.vae), of(whisper, host.whisper));
        let here = match stage {
            _ if !self.levers.offload => unet + vae + whisper,
            MemoryStage::Audio => whisper,
            MemoryStage::Denoise if self.levers.streamed => 0,
            MemoryStage::Denoise => unet,
            _ => vae,
        };
        rest + here
    }

    /// Bytes of so many weights of the UNet that are brought for one layer.
    pub(super) fn streamed(&self, weights: usize) -> u64 {
        match (self.levers.streamed, self.account.kind) {
            (false, _) => 0,
            (true, DeviceKind::Cpu) => bytes(weights, self.shape.host_bytes.unet),
            (true, DeviceKind::Cuda) => bytes(weights, self.each()),
        }
    }

    /// So many `f32` values, where the host's memory is the device's.
    pub(super) fn on_host(&self, values: usize) -> u64 {
        match self.account.kind {
            DeviceKind::Cpu => bytes(values, F32),
            DeviceKind::Cuda => 0,
        }
    }

    /// Values of one face.
    pub(super) fn face(&self) -> usize {
        3 * self.shape.resolution_px * self.shape.resolution_px
    }

    /// Values of the encoded speech that the host holds.
    pub(super) fn features(&self) -> usize {
        let dims = &self.shape.whisper;
        dims.n_audio_ctx * dims.tokens_per_row() * dims.n_audio_state * AUDIO_WINDOWS
    }

    /// What the host holds for a window: features, faces as bytes, the mask, rows.
    pub(super) fn request(&self) -> u64 {
        let side = self.shape.resolution_px;
        self.on_host(self.features() + ModelShape::FRAMES * self.face() / F32 + side * side + self.rows())
    }

    /// Values of the speech that a window hears.
    fn rows(&self) -> usize {
        ModelShape::FRAMES * self.shape.audio_tokens() * self.shape.whisper.n_audio_state
    }

    /// `f32` latents of a window with so many channels.
    pub(super) fn latents(&self, channels: usize) -> u64 {
        let side = self.shape.latent_side();
        bytes(channels * ModelShape::FRAMES * side * side, F32)
    }

    /// All tensors that are alive while the UNet runs, besides its own: latents, conditions, input, speech, the other
    /// half of the guidance.
    pub(super) fn while_denoising(&self) -> u64 {
        let (each, side) = (self.each(), self.shape.latent_side());
        let input = bytes(SEEN * ModelShape::FRAMES * side * side, each);
        let audio = bytes(self.rows(), each);
        let guidance = match (self.guided, self.batch) {
            (false, _) => 0,
            (true, 1) => audio + self.latents(LATENT),
            (true, _) => 3 * audio + 2 * input,
        };
        self.request() + self.latents(SEEN) + audio + input + guidance
    }

    /// A term of a stage: so many bytes of tensors beside the weights.
    pub(super) fn term(&self, stage: MemoryStage, what: &'static str, level: usize, tensors: u64) -> Term {
        let weights = self.weights(stage);
        Term {
            stage,
            what,
            level,
            weights,
            bytes: weights + tensors,
        }
    }
}
