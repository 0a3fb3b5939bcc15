//! A task: weights, one audio window, and one window of faces with one denoising step. More steps are no more memory.

use latentfarm_common::wire::memory::{DeviceKind, MemoryStage};

use super::shape::{ModelShape, Values, Weights};
use super::tape::{Ghost, Tape};
use super::{Account, StageCost, unet, vae, whisper};

const F32: usize = 4;
/// Latents have 4 channels, the mask 1, and the UNet sees latents, mask, masked and reference.
const LATENT: usize = 4;
const SEEN: usize = 13;
/// Encoded audio windows that a chunk needs, about: the engine keeps a few more.
const AUDIO_WINDOWS: usize = 2;

/// The weights on the device. Where networks are kept off it while idle, only what never leaves is held.
struct Resident<'a> {
    tape: &'a Tape,
    shape: &'a ModelShape,
    weights: &'a Weights,
    _always: Ghost,
}

pub(super) fn all_weights(account: &Account, shape: &ModelShape, weights: &Weights) -> u64 {
    let [unet, vae, whisper] = each_bytes(account, shape);
    layers(weights.unet, unet)
        + layers(weights.vae, vae)
        + layers(weights.whisper, whisper)
        + rest(account, weights)
}

/// Bytes a weight of each network.
fn each_bytes(account: &Account, shape: &ModelShape) -> [usize; 3] {
    match account.kind {
        DeviceKind::Cpu => [
            shape.host_bytes.unet,
            shape.host_bytes.vae,
            shape.host_bytes.whisper,
        ],
        DeviceKind::Cuda => [account.bytes_per_value; 3],
    }
}

fn layers(values: Values, each: usize) -> u64 {
    values.layers as u64 * each as u64
}

/// Norms, biases and tables: held in the networks' type.
fn rest(account: &Account, weights: &Weights) -> u64 {
    weights.rest() as u64 * account.bytes_per_value as u64
}

impl<'a> Resident<'a> {
    fn new(tape: &'a Tape, shape: &'a ModelShape, weights: &'a Weights) -> Self {
        let always = if tape.levers.offload {
            rest(&tape.account, weights)
        } else {
            all_weights(&tape.account, shape, weights)
        };
        Self {
            tape,
            shape,
            weights,
            _always: tape.hold(always, &[]),
        }
    }

    /// The network that works in `stage` is on the device until the ghost is dropped.
    fn at_work(&self, stage: MemoryStage) -> Ghost {
        let [unet, vae, whisper] = each_bytes(&self.tape.account, self.shape);
        let levers = self.tape.levers;
        let bytes = match stage {
            _ if !levers.offload => 0,
            MemoryStage::Audio => layers(self.weights.whisper, whisper),
            MemoryStage::Denoise if levers.streamed => 0,
            MemoryStage::Denoise => layers(self.weights.unet, unet),
            _ => layers(self.weights.vae, vae),
        };
        let streams = stage == MemoryStage::Denoise && levers.streamed;
        self.tape.streamed_bytes.set(if streams { unet } else { 0 });
        self.tape.hold(bytes, &[])
    }
}

/// What the UNet is told besides the latents.
struct Conditions {
    _pictures: [Ghost; 3],
    audio: Ghost,
}

pub(super) fn stages(tape: &Tape, shape: &ModelShape, weights: &Weights, guided: bool) -> Vec<StageCost> {
    let mut stages = Vec::new();
    let mut ended = |stage| {
        let (peak, at_peak) = tape.take_peak();
        stages.push(StageCost {
            stage,
            live_after: tape.live(),
            peak,
            at_peak,
        });
    };
    let resident = Resident::new(tape, shape, weights);
    ended(MemoryStage::Load);

    let at_work = resident.at_work(MemoryStage::Audio);
    let features = hear(tape, shape);
    drop(at_work);
    ended(MemoryStage::Audio);

    let request = Request::new(tape, shape);
    let at_work = resident.at_work(MemoryStage::VaeEncode);
    let (latents, conditions) = encode(tape, shape);
    drop(at_work);
    ended(MemoryStage::VaeEncode);

    let at_work = resident.at_work(MemoryStage::Denoise);
    let latents = denoise(tape, shape, latents, &conditions, guided);
    drop((conditions, at_work));
    ended(MemoryStage::Denoise);

    let at_work = resident.at_work(MemoryStage::VaeDecode);
    decode(tape, shape, &latents);
    drop((latents, at_work, request, features));
    ended(MemoryStage::VaeDecode);
    stages
}

/// Encodes an audio window; its rows are kept on the host, beside those of others.
fn hear(tape: &Tape, shape: &ModelShape) -> Ghost {
    let dims = &shape.whisper;
    let mel = tape.tensor(F32, &[1, dims.n_mels, 2 * dims.n_audio_ctx]);
    let states = whisper::forward(tape, dims, &mel);
    let kept = states.elements() * AUDIO_WINDOWS;
    tape.on_host(F32, &[kept])
}

/// What the host holds for as long as a window lasts: the faces as bytes, the mask, the rows of speech.
struct Request {
    _held: [Ghost; 3],
}

impl Request {
    fn new(tape: &Tape, shape: &ModelShape) -> Self {
        let (frames, side) = (ModelShape::FRAMES, shape.resolution_px);
        let rows = [frames, shape.audio_tokens(), shape.whisper.n_audio_state];
        Self {
            _held: [
                tape.on_host(1, &[frames, 3, side, side]),
                tape.on_host(F32, &[side, side]),
                tape.on_host(F32, &rows),
            ],
        }
    }
}

fn encode(tape: &Tape, shape: &ModelShape) -> (Ghost, Conditions) {
    let (frames, side) = (ModelShape::FRAMES, shape.latent_side());
    let latent = [1, LATENT, side, side];
    let (mut masked, mut reference) = (Vec::new(), Vec::new());
    for _ in 0..frames {
        let face = [1, 3, shape.resolution_px, shape.resolution_px];
        let pixels = tape.on_host(F32, &face);
        let without_mouth = tape.on_host(F32, &face);
        masked.push(encoded(tape, shape, &without_mouth, &latent));
        reference.push(encoded(tape, shape, &pixels, &latent));
    }
    let all = |channels| tape.tensor(F32, &[1, channels, frames, side, side]);
    let noise = all(LATENT);
    let conditions = Conditions {
        _pictures: [all(1), all(LATENT), all(LATENT)],
        audio: tape.tensor(
            tape.account.bytes_per_value,
            &[1, frames, shape.audio_tokens(), shape.whisper.n_audio_state],
        ),
    };
    (noise, conditions)
}

/// The latents of one picture, in `f32`.
fn encoded(tape: &Tape, shape: &ModelShape, pixels: &Ghost, latent: &[usize]) -> Ghost {
    let on_device = match tape.account.kind {
        DeviceKind::Cpu => pixels.clone(),
        DeviceKind::Cuda => tape.tensor(F32, &pixels.shape),
    };
    let moments = vae::encode(tape, &shape.vae, &on_device);
    let _wide = tape.tensor(F32, &moments.shape);
    drop(moments);
    tape.tensor(F32, latent)
}

/// One step: the UNet once, or twice with guidance, or once over both halves.
fn denoise(tape: &Tape, shape: &ModelShape, latents: Ghost, conditions: &Conditions, guided: bool) -> Ghost {
    let (frames, side) = (ModelShape::FRAMES, shape.latent_side());
    let each = tape.account.bytes_per_value;
    let wide = tape.tensor(F32, &[1, SEEN, frames, side, side]);
    let input = if each == F32 {
        wide
    } else {
        let input = tape.tensor(each, &wide.shape);
        drop(wide);
        input
    };
    let pass = |input: &Ghost, audio: &Ghost| {
        let noise = unet::forward(tape, &shape.unet, input, audio);
        if each == F32 {
            noise
        } else {
            tape.tensor(F32, &noise.shape)
        }
    };
    let noise = if guided {
        let audio = &conditions.audio;
        let silence = tape.tensor(each, &audio.shape);
        let both = |x: &Ghost| {
            let mut shape = x.shape.clone();
            shape[0] *= 2;
            tape.tensor(each, &shape)
        };
        let (silent, speaking) = if tape.levers.batched_guidance && tape.account.kind == DeviceKind::Cuda {
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
        pass(&input, &conditions.audio)
    };
    drop(input);
    let next = tape.tensor(F32, &latents.shape);
    drop((noise, latents));
    next
}

/// Decodes and pastes every face; those that are done wait on the host.
fn decode(tape: &Tape, shape: &ModelShape, latents: &Ghost) {
    let side = shape.latent_side();
    let face = [1, 3, shape.resolution_px, shape.resolution_px];
    let mut pasted = Vec::new();
    for _ in 0..latents.shape[2] {
        let frame = tape.tensor(F32, &[1, LATENT, side, side]);
        let pixels = vae::decode(tape, &shape.vae, &frame);
        let _wide = tape.tensor(F32, &pixels.shape);
        drop(pixels);
        // The original pixels, what is kept of them, and the new.
        let _original = (tape.on_host(F32, &face), tape.on_host(F32, &face));
        pasted.push(tape.on_host(F32, &face));
    }
    let _bytes = tape.on_host(1, &[pasted.len(), 3, shape.resolution_px, shape.resolution_px]);
}
