//! The memory of the weights that are on the device in each stage of a render task. The memory prediction
//! makes one [`ResidentWeights`] for each walk over the model's operations (see `cost::walk`), and enters
//! every stage with it.

use latentfarm_common::wire::memory::{DeviceKind, MemoryStage};

use super::tensor::MetaTensor;
use super::tracker::MemoryTracker;
use crate::cost::shape::{ModelShape, WeightCount, WeightCounts};

/// The weights on the device, in bytes. Without offloading all weights are there in every stage. With
/// offloading the layers of a network are there only in the stage that runs it, and norms, biases and tables
/// in every stage.
pub(super) struct ResidentWeights<'a> {
    tracker: &'a MemoryTracker,
    /// The bytes of the UNet's linear and convolution layers; the next two are those of the VAE and of
    /// Whisper.
    unet: u64,
    vae: u64,
    whisper: u64,
    /// The bytes that are on the device in every stage.
    always: u64,
    /// The bytes of one scalar weight of the UNet on the device.
    each_unet: usize,
    /// The claim on the tracker for `always`, which ends with this value.
    _held: MetaTensor,
}

impl<'a> ResidentWeights<'a> {
    pub(super) fn new(tracker: &'a MemoryTracker, shape: &ModelShape, weights: &WeightCounts) -> Self {
        let spec = tracker.spec;
        let each = |on_host| match spec.kind {
            DeviceKind::Cpu => on_host,
            DeviceKind::Cuda => spec.bytes_per_value,
        };
        let bytes = |count: WeightCount, on_host| count.layers as u64 * each(on_host) as u64;
        let host = shape.host_bytes_per_weight;
        let (unet, vae, whisper) = (
            bytes(weights.unet, host.unet),
            bytes(weights.vae, host.vae),
            bytes(weights.whisper, host.whisper),
        );
        // Norms, biases and tables always have the type in which the network computes; layers on the CPU may
        // lie in the type of the weight file.
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

    /// Returns the bytes of the weights that are on the device from the beginning of `stage` to its end.
    /// Layers that are streamed one by one do not count here.
    pub(super) fn bytes(&self, stage: MemoryStage) -> u64 {
        self.always + self.copied_for(stage)
    }

    /// Copies the network that runs in `stage` to the device if it was offloaded: the tracker counts its
    /// layers until the returned tensor is dropped. If the stage streams its layers, the tracker receives the
    /// size of a weight instead, and counts each layer while it computes.
    pub(super) fn bring_network(&self, stage: MemoryStage) -> MetaTensor {
        let streams = stage == MemoryStage::Denoise && self.tracker.options.streamed;
        let each = if streams { self.each_unet } else { 0 };
        self.tracker.streamed_bytes.set(each);
        self.tracker.hold(self.copied_for(stage), &[])
    }

    /// Returns the bytes of the VAE's layers, which leave the device while a picture is computed again in
    /// `f32`.
    pub(super) fn vae_layers(&self) -> u64 {
        self.vae
    }

    /// Returns the bytes of the weights that are copied to the device for `stage`.
    fn copied_for(&self, stage: MemoryStage) -> u64 {
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
