//! The stages of a task: loading the weights, encoding one audio window, and rendering one window of faces
//! with one denoising step. More steps take no more memory.

use latentfarm_common::wire::memory::{DeviceKind, MemoryStage};

use super::resident::ResidentWeights;
use super::stage::StageMemory;
use super::tensor::MetaTensor;
use super::tracker::MemoryTracker;
use super::{unet, vae, whisper};
use crate::cost::shape::{ModelShape, WeightCount, WeightCounts};

const F32: usize = 4;
/// The number of channels of latents.
const LATENT: usize = 4;
/// The channels of the UNet's input: latents 4, mask 1, masked latents 4, reference latents 4.
const UNET_IN_CHANNELS: usize = 13;
/// About the number of encoded audio windows that a chunk needs; the engine caches a few more.
const AUDIO_WINDOWS: usize = 2;

/// The inputs of the UNet besides the latents.
struct UNetInputs {
    _pictures: [MetaTensor; 3],
    encoder_hidden_states: MetaTensor,
}

/// Returns the memory of each stage of a task, in order; and that of the stages in which the image
/// autoencoder computes a picture again in `f32`, which are none if it computes in `f32` anyway.
pub(super) fn stages(
    tracker: &MemoryTracker,
    shape: &ModelShape,
    weights: &WeightCounts,
    guided: bool,
) -> (Vec<StageMemory>, Vec<StageMemory>) {
    let (mut stages, mut in_f32) = (Vec::new(), Vec::new());
    let resident = ResidentWeights::new(tracker, shape, weights);
    let since_the_last = |stage| {
        let (peak, at_peak) = tracker.take_peak();
        StageMemory {
            stage,
            in_f32: false,
            weights: resident.bytes(stage),
            live_after: tracker.live(),
            peak,
            at_peak,
        }
    };
    let mut ended = |stage| stages.push(since_the_last(stage));
    let again_in_f32 = |stage: StageMemory| StageMemory {
        in_f32: true,
        weights: stage.weights - resident.vae_layers(),
        peak: stage.peak - resident.vae_layers(),
        ..stage
    };
    let may_overflow = tracker.spec.bytes_per_value < F32;
    ended(MemoryStage::Load);

    let network = resident.bring_network(MemoryStage::Audio);
    let features = encode_audio(tracker, shape);
    drop(network);
    ended(MemoryStage::Audio);

    let request = Request::new(tracker, shape);
    let network = resident.bring_network(MemoryStage::VaeEncode);
    if may_overflow {
        encode_in_f32(tracker, shape, weights.vae_encoder);
        in_f32.push(again_in_f32(since_the_last(MemoryStage::VaeEncode)));
    }
    let (latents, conditioning) = encode(tracker, shape);
    drop(network);
    ended(MemoryStage::VaeEncode);

    let network = resident.bring_network(MemoryStage::Denoise);
    let latents = denoise(tracker, shape, latents, &conditioning, guided);
    drop((conditioning, network));
    ended(MemoryStage::Denoise);

    let network = resident.bring_network(MemoryStage::VaeDecode);
    if may_overflow {
        decode_in_f32(tracker, shape, weights.vae_decoder);
        in_f32.push(again_in_f32(since_the_last(MemoryStage::VaeDecode)));
    }
    decode(tracker, shape, &latents);
    drop((latents, network, request, features));
    ended(MemoryStage::VaeDecode);
    (stages, in_f32)
}

/// Encodes an audio window and returns the rows that the host keeps of all windows.
fn encode_audio(tracker: &MemoryTracker, shape: &ModelShape) -> MetaTensor {
    let dims = &shape.whisper;
    let mel = tracker.tensor(F32, &[1, dims.n_mels, 2 * dims.n_audio_ctx]);
    let states = whisper::forward(tracker, dims, &mel);
    let kept = states.elements() * AUDIO_WINDOWS;
    tracker.on_host(F32, &[kept])
}

/// The tensors that the host holds for a whole window: the faces as bytes, the mask, and the audio rows.
struct Request {
    _held: [MetaTensor; 3],
}

impl Request {
    fn new(tracker: &MemoryTracker, shape: &ModelShape) -> Self {
        let (frames, side) = (ModelShape::FRAMES, shape.resolution_px);
        let rows = [frames, shape.audio_tokens(), shape.whisper.n_audio_state];
        Self {
            _held: [
                tracker.on_host(1, &[frames, 3, side, side]),
                tracker.on_host(F32, &[side, side]),
                tracker.on_host(F32, &rows),
            ],
        }
    }
}

/// Encodes all faces and returns the starting latents and the other inputs of the UNet.
fn encode(tracker: &MemoryTracker, shape: &ModelShape) -> (MetaTensor, UNetInputs) {
    let (frames, side) = (ModelShape::FRAMES, shape.latent_side());
    let latent = [1, LATENT, side, side];
    let (mut masked_image_latents, mut ref_latents) = (Vec::new(), Vec::new());
    for _ in 0..frames {
        let face = [1, 3, shape.resolution_px, shape.resolution_px];
        let pixels = tracker.on_host(F32, &face);
        let without_mouth = tracker.on_host(F32, &face);
        masked_image_latents.push(encoded(tracker, shape, &without_mouth, &latent));
        ref_latents.push(encoded(tracker, shape, &pixels, &latent));
    }
    let all = |channels| tracker.tensor(F32, &[1, channels, frames, side, side]);
    let noise = all(LATENT);
    let conditioning = UNetInputs {
        _pictures: [all(1), all(LATENT), all(LATENT)],
        encoder_hidden_states: tracker.tensor(
            tracker.spec.bytes_per_value,
            &[1, frames, shape.audio_tokens(), shape.whisper.n_audio_state],
        ),
    };
    (noise, conditioning)
}

/// Encodes a picture again in `f32`, which copies the norms and biases of `weights` at once and the layers one
/// by one. The latents of the window's earlier pictures, at most 2 MiB at 512 px, do not count.
fn encode_in_f32(tracker: &MemoryTracker, shape: &ModelShape, weights: WeightCount) {
    let _rest = tracker.tensor(F32, &[weights.rest]);
    let pixels = tracker.tensor(F32, &[1, 3, shape.resolution_px, shape.resolution_px]);
    vae::encode(&tracker.in_f32(), &shape.vae, &pixels);
}

/// Decodes a picture again in `f32`, with the weights as in [`encode_in_f32`].
fn decode_in_f32(tracker: &MemoryTracker, shape: &ModelShape, weights: WeightCount) {
    let _rest = tracker.tensor(F32, &[weights.rest]);
    let side = shape.latent_side();
    let frame = tracker.tensor(F32, &[1, LATENT, side, side]);
    vae::decode(&tracker.in_f32(), &shape.vae, &frame);
}

/// Encodes one picture and returns its latents in `f32`.
fn encoded(tracker: &MemoryTracker, shape: &ModelShape, pixels: &MetaTensor, latent: &[usize]) -> MetaTensor {
    let on_device = match tracker.spec.kind {
        DeviceKind::Cpu => pixels.clone(),
        DeviceKind::Cuda => tracker.tensor(F32, &pixels.shape),
    };
    let moments = vae::encode(tracker, &shape.vae, &on_device);
    let _wide = tracker.tensor(F32, &moments.shape);
    drop(moments);
    tracker.tensor(F32, latent)
}

/// Runs one denoising step: one pass of the UNet, or with guidance two passes or one over a batch of both.
fn denoise(
    tracker: &MemoryTracker,
    shape: &ModelShape,
    latents: MetaTensor,
    conditioning: &UNetInputs,
    guided: bool,
) -> MetaTensor {
    let (frames, side) = (ModelShape::FRAMES, shape.latent_side());
    let each = tracker.spec.bytes_per_value;
    let wide = tracker.tensor(F32, &[1, UNET_IN_CHANNELS, frames, side, side]);
    let input = if each == F32 {
        wide
    } else {
        let input = tracker.tensor(each, &wide.shape);
        drop(wide);
        input
    };
    let pass = |input: &MetaTensor, audio: &MetaTensor| {
        let noise = unet::forward(tracker, &shape.unet, input, audio);
        if each == F32 {
            noise
        } else {
            tracker.tensor(F32, &noise.shape)
        }
    };
    let noise = if guided {
        let audio = &conditioning.encoder_hidden_states;
        let silence = tracker.tensor(each, &audio.shape);
        let both = |x: &MetaTensor| {
            let mut shape = x.shape.clone();
            shape[0] *= 2;
            tracker.tensor(each, &shape)
        };
        let (uncond, cond) = if tracker.options.batched_guidance && tracker.spec.kind == DeviceKind::Cuda {
            let (input, audio) = (both(&input), both(audio));
            let noise = pass(&input, &audio);
            (noise.clone(), noise)
        } else {
            let uncond = pass(&input, &silence);
            (uncond, pass(&input, audio))
        };
        drop((silence, uncond));
        cond.viewed(&latents.shape)
    } else {
        pass(&input, &conditioning.encoder_hidden_states)
    };
    drop(input);
    let next = tracker.tensor(F32, &latents.shape);
    drop((noise, latents));
    next
}

/// Decodes and pastes every face; the host keeps the finished ones.
fn decode(tracker: &MemoryTracker, shape: &ModelShape, latents: &MetaTensor) {
    let side = shape.latent_side();
    let face = [1, 3, shape.resolution_px, shape.resolution_px];
    let mut pasted = Vec::new();
    for _ in 0..latents.shape[2] {
        let frame = tracker.tensor(F32, &[1, LATENT, side, side]);
        let pixels = vae::decode(tracker, &shape.vae, &frame);
        let _wide = tracker.tensor(F32, &pixels.shape);
        drop(pixels);
        // The host holds the original pixels, the part of them that is kept, and the new ones.
        let _original = (tracker.on_host(F32, &face), tracker.on_host(F32, &face));
        pasted.push(tracker.on_host(F32, &face));
    }
    let _bytes = tracker.on_host(1, &[pasted.len(), 3, shape.resolution_px, shape.resolution_px]);
}
