//! The weights that are on the device in each stage of a task.

use latentfarm_common::wire::memory::{DeviceKind, MemoryStage};

use super::tensor::WalkedTensor;
use super::tracker::MemoryTracker;
use crate::cost::shape::{ModelShape, WeightCount, WeightCounts};

/// The weights on the device. If networks are kept off it while idle, only what never leaves is held all along.
pub(super) struct ResidentWeights<'a> {
    tracker: &'a MemoryTracker,
    /// Bytes of the layers of each network.
    unet: u64,
    vae: u64,
    whisper: u64,
    /// Bytes that never leave the device.
    always: u64,
    /// Bytes of a weight of the UNet.
    each_unet: usize,
    _held: WalkedTensor,
}

impl<'a> ResidentWeights<'a> {
    pub(super) fn new(tracker: &'a MemoryTracker, shape: &ModelShape, weights: &WeightCounts) -> Self {
        let spec = tracker.spec;
        let each = |on_host| match spec.kind {
            DeviceKind::Cpu => on_host,
            DeviceKind::Cuda => spec.bytes_per_value,
        };
        let bytes = |count: WeightCount, on_host| count.layers as u64 * each(on_host) as u64;
        let host = shape.host_bytes;
        let (unet, vae, whisper) = (
            bytes(weights.unet, host.unet),
            bytes(weights.vae, host.vae),
            bytes(weights.whisper, host.whisper),
        );
        // Norms, biases and tables are held in the networks' type.
        let rest = weights.rest() as u64 * spec.bytes_per_value as u64;
        let layers = if tracker.options.offload {
            0
        } else {
            unet + vae + whisper
        };
        Self {
            tracker,
            unet,
            vae,
            whisper,
            always: rest + layers,
            each_unet: each(host.unet),
            _held: tracker.hold(rest + layers, &[]),
        }
    }

    /// Bytes of the weights that are on the device throughout `stage`.
    pub(super) fn bytes(&self, stage: MemoryStage) -> u64 {
        self.always + self.brought(stage)
    }

    /// Brings the network that works in `stage` to the device, until the tensor is dropped.
    pub(super) fn at_work(&self, stage: MemoryStage) -> WalkedTensor {
        let streams = stage == MemoryStage::Denoise && self.tracker.options.streamed;
        let each = if streams { self.each_unet } else { 0 };
        self.tracker.streamed_bytes.set(each);
        self.tracker.hold(self.brought(stage), &[])
    }

    fn brought(&self, stage: MemoryStage) -> u64 {
        let options = self.tracker.options;
        match stage {
            _ if !options.offload => 0,
            MemoryStage::Audio => self.whisper,
            MemoryStage::Denoise if options.streamed => 0,
            MemoryStage::Denoise => self.unet,
            MemoryStage::VaeEncode | MemoryStage::VaeDecode => self.vae,
            _ => 0,
        }
    }
}
