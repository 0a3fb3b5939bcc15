//! A task: weights, one audio window, and one window of faces with one denoising step. More steps are no more memory.

use latentfarm_common::wire::memory::{DeviceKind, MemoryStage};

use super::resident::ResidentWeights;
use super::stage::StageMemory;
use super::tensor::WalkedTensor;
use super::tracker::MemoryTracker;
use super::{unet, vae, whisper};
use crate::cost::shape::{ModelShape, WeightCounts};

const F32: usize = 4;
/// Latents have 4 channels, the mask 1, and the UNet sees latents, mask, masked and reference.
const LATENT: usize = 4;
const SEEN: usize = 13;
/// Encoded audio windows that a chunk needs, about: the engine keeps a few more.
const AUDIO_WINDOWS: usize = 2;

/// The inputs of the UNet besides the latents.
struct Conditioning {
    _pictures: [WalkedTensor; 3],
    audio: WalkedTensor,
}

/// What each stage of a task takes, in order.
pub(super) fn stages(
    tracker: &MemoryTracker,
    shape: &ModelShape,
    weights: &WeightCounts,
    guided: bool,
) -> Vec<StageMemory> {
    let mut stages = Vec::new();
    let resident = ResidentWeights::new(tracker, shape, weights);
    let mut ended = |stage| {
        let (peak, at_peak) = tracker.take_peak();
        stages.push(StageMemory {
            stage,
            weights: resident.bytes(stage),
            live_after: tracker.live(),
            peak,
            at_peak,
        });
    };
    ended(MemoryStage::Load);

    let at_work = resident.at_work(MemoryStage::Audio);
    let features = encode_audio(tracker, shape);
    drop(at_work);
    ended(MemoryStage::Audio);

    let request = Request::new(tracker, shape);
    let at_work = resident.at_work(MemoryStage::VaeEncode);
    let (latents, conditioning) = encode(tracker, shape);
    drop(at_work);
    ended(MemoryStage::VaeEncode);

    let at_work = resident.at_work(MemoryStage::Denoise);
    let latents = denoise(tracker, shape, latents, &conditioning, guided);
    drop((conditioning, at_work));
    ended(MemoryStage::Denoise);

    let at_work = resident.at_work(MemoryStage::VaeDecode);
    decode(tracker, shape, &latents);
    drop((latents, at_work, request, features));
    ended(MemoryStage::VaeDecode);
    stages
}

/// Encodes an audio window; its rows are kept on the host, beside those of others.
fn encode_audio(tracker: &MemoryTracker, shape: &ModelShape) -> WalkedTensor {
    let dims = &shape.whisper;
    let mel = tracker.tensor(F32, &[1, dims.n_mels, 2 * dims.n_audio_ctx]);
    let states = whisper::forward(tracker, dims, &mel);
    let kept = states.elements() * AUDIO_WINDOWS;
    tracker.on_host(F32, &[kept])
}

/// What the host holds for as long as a window lasts: the faces as bytes, the mask, the rows of speech.
struct Request {
    _held: [WalkedTensor; 3],
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

fn encode(tracker: &MemoryTracker, shape: &ModelShape) -> (WalkedTensor, Conditioning) {
    let (frames, side) = (ModelShape::FRAMES, shape.latent_side());
    let latent = [1, LATENT, side, side];
    let (mut masked, mut reference) = (Vec::new(), Vec::new());
    for _ in 0..frames {
        let face = [1, 3, shape.resolution_px, shape.resolution_px];
        let pixels = tracker.on_host(F32, &face);
        let without_mouth = tracker.on_host(F32, &face);
        masked.push(encoded(tracker, shape, &without_mouth, &latent));
        reference.push(encoded(tracker, shape, &pixels, &latent));
    }
    let all = |channels| tracker.tensor(F32, &[1, channels, frames, side, side]);
    let noise = all(LATENT);
    let conditioning = Conditioning {
        _pictures: [all(1), all(LATENT), all(LATENT)],
        audio: tracker.tensor(
            tracker.spec.bytes_per_value,
            &[1, frames, shape.audio_tokens(), shape.whisper.n_audio_state],
        ),
    };
    (noise, conditioning)
}

/// The latents of one picture, in `f32`.
fn encoded(
    tracker: &MemoryTracker,
    shape: &ModelShape,
    pixels: &WalkedTensor,
    latent: &[usize],
) -> WalkedTensor {
    let on_device = match tracker.spec.kind {
        DeviceKind::Cpu => pixels.clone(),
        DeviceKind::Cuda => tracker.tensor(F32, &pixels.shape),
    };
    let moments = vae::encode(tracker, &shape.vae, &on_device);
    let _wide = tracker.tensor(F32, &moments.shape);
    drop(moments);
    tracker.tensor(F32, latent)
}

/// One step: the UNet once, or twice with guidance, or once over both halves.
fn denoise(
    tracker: &MemoryTracker,
    shape: &ModelShape,
    latents: WalkedTensor,
    conditioning: &Conditioning,
    guided: bool,
) -> WalkedTensor {
    let (frames, side) = (ModelShape::FRAMES, shape.latent_side());
    let each = tracker.spec.bytes_per_value;
    let wide = tracker.tensor(F32, &[1, SEEN, frames, side, side]);
    let input = if each == F32 {
        wide
    } else {
        let input = tracker.tensor(each, &wide.shape);
        drop(wide);
        input
    };
    let pass = |input: &WalkedTensor, audio: &WalkedTensor| {
        let noise = unet::forward(tracker, &shape.unet, input, audio);
        if each == F32 {
            noise
        } else {
            tracker.tensor(F32, &noise.shape)
        }
    };
    let noise = if guided {
        let audio = &conditioning.audio;
        let silence = tracker.tensor(each, &audio.shape);
        let both = |x: &WalkedTensor| {
            let mut shape = x.shape.clone();
            shape[0] *= 2;
            tracker.tensor(each, &shape)
        };
        let (silent, speaking) = if tracker.options.batched_guidance && tracker.spec.kind == DeviceKind::Cuda
        {
            let (input, audio) = (both(&input), both(audio));
            let noise = pass(&input, &audio);
            (noise.clone(), noise)
        } else {
            let silent = pass(&input, &silence);
            (silent, pass(&input, audio))
        };
        drop((silence, silent));
        speaking.viewed(&latents.shape)
    } else {
        pass(&input, &conditioning.audio)
    };
    drop(input);
    let next = tracker.tensor(F32, &latents.shape);
    drop((noise, latents));
    next
}

/// Decodes and pastes every face; those that are done wait on the host.
fn decode(tracker: &MemoryTracker, shape: &ModelShape, latents: &WalkedTensor) {
    let side = shape.latent_side();
    let face = [1, 3, shape.resolution_px, shape.resolution_px];
    let mut pasted = Vec::new();
    for _ in 0..latents.shape[2] {
        let frame = tracker.tensor(F32, &[1, LATENT, side, side]);
        let pixels = vae::decode(tracker, &shape.vae, &frame);
        let _wide = tracker.tensor(F32, &pixels.shape);
        drop(pixels);
        // The original pixels, what is kept of them, and the new.
        let _original = (tracker.on_host(F32, &face), tracker.on_host(F32, &face));
        pasted.push(tracker.on_host(F32, &face));
    }
    let _bytes = tracker.on_host(1, &[pasted.len(), 3, shape.resolution_px, shape.resolution_px]);
}
