//! One window of faces, from bytes to bytes.
//!
//! Pictures go through the autoencoder one at a time, so that memory does not grow with the window; what a
//! frame or a step needed is dropped before the next begins.

use std::time::Instant;

use candle_core::{DType, Device, Result, Tensor};
use latentfarm_common::wire::engine::{AudioRequest, EngineStage, EngineTimings, WindowRequest};

use super::checkpoint::Checkpoint;
use super::config::WhisperDims;
use super::denoise::{Conditioning, SamplingParams, denoise};
use super::error::{ModelError, Stopped};
use super::faces::Faces;
use super::noise::{Noise, Purpose};
use super::options::ExecutionOptions;
use super::preprocess::{self, FaceMask, LATENT_FACTOR};
use super::run::Run;
use super::tensors::{NetworkWeights, WeightsError};
use super::unet::UNet3DConditionModel;
use super::vae::{AutoencoderKl, SCALING_FACTOR};
use super::whisper::{AudioFeatures, WhisperEncoder, mel_tensor};

type Stage<'a> = &'a mut dyn FnMut(EngineStage) -> std::result::Result<(), Stopped>;

/// The three networks, loaded.
pub struct LatentSync {
    unet: UNet3DConditionModel,
    vae: AutoencoderKl,
    whisper: WhisperEncoder,
    dims: WhisperDims,
    device: Device,
    dtype: DType,
}

/// What a window gives before it is cut down to bytes.
pub struct RenderedWindow {
    /// `(1, 4, frames, h/8, w/8)`, after the last step.
    pub latents: Tensor,
    /// One `(1, 3, R, R)` picture a frame: the rendered mouth in the original face, about -1..1, not clamped.
    pub faces: Vec<Tensor>,
    pub timings: EngineTimings,
}

impl LatentSync {
    /// Loads the three networks for runs on `device` as `dtype`. Options that keep idle networks off the device hold from
    /// here on: no network is brought there before it is used.
    ///
    /// # Errors
    /// Every missing, unexpected and misshaped tensor of a file is named in one error.
    pub fn load(
        checkpoint: &Checkpoint,
        device: &Device,
        dtype: DType,
        options: ExecutionOptions,
    ) -> std::result::Result<Self, WeightsError> {
        Ok(Self::new(
            checkpoint.unet(device, dtype, options)?,
            checkpoint.vae(device, dtype, options)?,
            checkpoint.whisper(device, dtype, options)?,
            checkpoint.whisper_dims(),
            device,
            dtype,
        ))
    }

    /// Puts loaded networks together; all must be on `device`, as `dtype`.
    pub fn new(
        unet: UNet3DConditionModel,
        vae: AutoencoderKl,
        whisper: WhisperEncoder,
        dims: WhisperDims,
        device: &Device,
        dtype: DType,
    ) -> Self {
        Self {
            unet,
            vae,
            whisper,
            dims,
            device: device.clone(),
            dtype,
        }
    }

    pub fn unet(&self) -> &UNet3DConditionModel {
        &self.unet
    }

    pub fn vae(&self) -> &AutoencoderKl {
        &self.vae
    }

    pub fn whisper(&self) -> &WhisperEncoder {
        &self.whisper
    }

    /// Under a plan that keeps idle networks off the device, none but the one at `work` is there until the guard is
    /// dropped, and then it is not either.
    fn alone<'a>(&'a self, run: &Run, work: &'a NetworkWeights) -> Alone<'a> {
        if !run.options.offload {
            return Alone(None);
        }
        for network in [
            self.unet.network_weights(),
            self.vae.network_weights(),
            self.whisper.network_weights(),
        ] {
            if !std::ptr::eq(network, work) {
                network.evict();
            }
        }
        Alone(Some(work))
    }

    /// Tokens that an output frame gets, and their width.
    pub fn audio_shape(&self) -> (usize, usize) {
        let rows = latentfarm_common::audio::windows::ROWS_PER_FRAME;
        (rows * self.dims.tokens_per_row(), self.dims.n_audio_state)
    }

    /// Encodes one audio window and keeps the rows that serve output frames.
    pub fn encode_audio(
        &self,
        run: &Run,
        request: &AudioRequest,
    ) -> std::result::Result<AudioFeatures, ModelError> {
        let mel = mel_tensor(request)?;
        let _alone = self.alone(run, self.whisper.network_weights());
        mel.to_dtype(self.dtype)
            .and_then(|mel| mel.to_device(&self.device))
            .and_then(|mel| self.whisper.forward(run, &mel))
            .and_then(|states| AudioFeatures::crop(&states, request))
            .map_err(|source| ModelError::compute("encode audio", source))
    }

    /// Renders the 16 faces of a window under its memory plan, which may differ from window to window; the result is laid
    /// out like `request.faces`. The hooks of `run` are called before every operation.
    ///
    /// # Shapes
    /// `rows` is `(16, tokens, width)`, see [`gather_rows`](super::gather_rows).
    ///
    /// # Errors
    /// [`ModelError::Stopped`] as soon as `stage`, which hears of every frame and step, says so.
    pub fn render_window(
        &self,
        run: &Run,
        request: &WindowRequest,
        rows: &Tensor,
        stage: Stage,
    ) -> std::result::Result<(Vec<u8>, EngineTimings), ModelError> {
        let run = &run.with_options(ExecutionOptions::of(request.plan));
        let faces = Faces {
            bytes: &request.faces,
            resolution: usize::try_from(request.model.resolution_px).unwrap_or(0),
            first_frame: request.first_frame,
        };
        let sampling = SamplingParams {
            steps: request.model.steps,
            guidance_scale: request.model.guidance_scale,
        };
        let noise = Noise::Keyed {
            seed: request.model.seed,
        };
        let window = self.render(run, faces, rows, &noise, sampling, stage)?;
        let mut bytes = Vec::with_capacity(request.faces.len());
        for face in &window.faces {
            bytes.extend(
                preprocess::bytes(face).map_err(|source| ModelError::compute("convert a face", source))?,
            );
        }
        Ok((bytes, window.timings))
    }

    /// Renders a window of any number of frames with any noise, under the options of `run`.
    pub fn render(
        &self,
        run: &Run,
        faces: Faces,
        rows: &Tensor,
        noise: &Noise,
        sampling: SamplingParams,
        stage: Stage,
    ) -> std::result::Result<RenderedWindow, ModelError> {
        let frames = self.check(faces, rows, sampling)?;
        let failed = |what| move |source| ModelError::compute(what, source);
        let mask = FaceMask::new(faces.resolution).map_err(failed("draw the mask"))?;
        let mut timings = EngineTimings::default();

        let started = Instant::now();
        let alone = self.alone(run, self.vae.network_weights());
        let (latents, conditioning) = self.encode_with(run, &mask, faces, rows, noise, stage)?;
        drop(alone);
        timings.vae_encode_ms = elapsed_ms(started);

        let started = Instant::now();
        let alone = self.alone(run, self.unet.network_weights());
        let latents = denoise(run, &self.unet, latents, &conditioning, sampling, stage)?;
        drop((conditioning, alone));
        timings.denoise_ms = elapsed_ms(started);

        let started = Instant::now();
        let _alone = self.alone(run, self.vae.network_weights());
        let mut pasted = Vec::with_capacity(frames);
        for index in 0..frames {
            let decoded = self.decode(run, faces, &latents, index)?;
            let face = faces
                .pixels(index)
                .and_then(|pixels| preprocess::paste(&decoded, &pixels, &mask.pixels))
                .map_err(failed("paste a face"))?;
            pasted.push(face);
            stage(EngineStage::VaeDecode {
                frame: u32::try_from(index).unwrap_or(u32::MAX),
            })?;
        }
        timings.vae_decode_ms = elapsed_ms(started);
        Ok(RenderedWindow {
            latents,
            faces: pasted,
            timings,
        })
    }

    fn check(
        &self,
        faces: Faces,
        rows: &Tensor,
        sampling: SamplingParams,
    ) -> std::result::Result<usize, ModelError> {
        let bad = |text: String| Err(ModelError::BadRequest(text));
        let frames = faces.count()?;
        let (tokens, width) = self.audio_shape();
        if rows.dims() != [frames, tokens, width] {
            return bad(format!(
                "audio rows are {:?}, {frames} faces need {:?}",
                rows.dims(),
                [frames, tokens, width]
            ));
        }
        if !(1..=super::ddim::TRAIN_TIMESTEPS).contains(&sampling.steps) {
            return bad(format!("{} steps are not within 1..=1000", sampling.steps));
        }
        Ok(frames)
    }

    /// Starting latents of a window, `(1, 4, frames, h/8, w/8)`, and what the UNet is told besides.
    pub fn encode(
        &self,
        run: &Run,
        faces: Faces,
        rows: &Tensor,
        noise: &Noise,
        stage: Stage,
    ) -> std::result::Result<(Tensor, Conditioning), ModelError> {
        let mask =
            FaceMask::new(faces.resolution).map_err(|source| ModelError::compute("draw the mask", source))?;
        self.encode_with(run, &mask, faces, rows, noise, stage)
    }

    fn encode_with(
        &self,
        run: &Run,
        mask: &FaceMask,
        faces: Faces,
        rows: &Tensor,
        noise: &Noise,
        stage: Stage,
    ) -> std::result::Result<(Tensor, Conditioning), ModelError> {
        let failed = |source| ModelError::compute("encode a face", source);
        let frames = faces.count()?;
        let (mut masked, mut reference) = (Vec::new(), Vec::new());
        for index in 0..frames {
            let (without_mouth, whole) = self.encode_frame(run, faces, mask, noise, index)?;
            masked.push(without_mouth);
            reference.push(whole);
            stage(EngineStage::VaeEncode {
                frame: u32::try_from(index).unwrap_or(u32::MAX),
            })?;
        }
        let build = || -> Result<(Tensor, Conditioning)> {
            let side = faces.resolution / LATENT_FACTOR;
            let init = noise
                .draw(Purpose::Init, faces.first_frame, 0, side)?
                .to_device(&self.device)?
                .unsqueeze(2)?
                .broadcast_as((1, 4, frames, side, side))?
                .force_contiguous()?;
            let conditioning = Conditioning {
                mask: mask
                    .latents
                    .to_device(&self.device)?
                    .unsqueeze(2)?
                    .broadcast_as((1, 1, frames, side, side))?
                    .force_contiguous()?,
                masked: Tensor::stack(&masked, 2)?,
                reference: Tensor::stack(&reference, 2)?,
                // Forced, as above: of one frame a view would do, and keep alive all that it is a view of.
                audio: rows
                    .to_dtype(self.dtype)?
                    .to_device(&self.device)?
                    .unsqueeze(0)?
                    .force_contiguous()?,
            };
            Ok((init, conditioning))
        };
        build().map_err(failed)
    }

    /// Scaled `f32` latents, `(1, 4, h/8, w/8)`, of one frame without its mouth and of the whole frame.
    fn encode_frame(
        &self,
        run: &Run,
        faces: Faces,
        mask: &FaceMask,
        noise: &Noise,
        index: usize,
    ) -> std::result::Result<(Tensor, Tensor), ModelError> {
        let failed = |source| ModelError::compute("encode a face", source);
        let pixels = faces.pixels(index).map_err(failed)?;
        let side = faces.resolution / LATENT_FACTOR;
        let latents = |pixels: &Tensor, purpose| -> std::result::Result<Tensor, ModelError> {
            let pixels = pixels.to_device(&self.device).map_err(failed)?;
            let moments = self.vae.encode_frame(run, &pixels, faces.frame(index))?;
            noise
                .draw(purpose, faces.first_frame, index, side)
                .and_then(|draw| moments.sample(&draw.to_device(&self.device)?))
                .and_then(|latents| latents * SCALING_FACTOR)
                .map_err(failed)
        };
        let without_mouth = preprocess::without_mouth(&pixels, &mask.pixels).map_err(failed)?;
        let masked = latents(&without_mouth, Purpose::Masked)?;
        let reference = latents(&pixels, Purpose::Reference)?;
        Ok((masked, reference))
    }

    /// One frame's new face, `(1, 3, R, R)` in `f32` on the host.
    fn decode(
        &self,
        run: &Run,
        faces: Faces,
        latents: &Tensor,
        index: usize,
    ) -> std::result::Result<Tensor, ModelError> {
        let failed = |source| ModelError::compute("decode a face", source);
        let frame = latents
            .narrow(2, index, 1)
            .and_then(|frame| frame.squeeze(2)? / SCALING_FACTOR)
            .map_err(failed)?;
        let decoded = self.vae.decode_frame(run, &frame, faces.frame(index))?;
        decoded.to_device(&Device::Cpu).map_err(failed)
    }
}

/// A network at work that leaves the device with this guard; see [`LatentSync::alone`].
struct Alone<'a>(Option<&'a NetworkWeights>);

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        if let Some(network) = self.0 {
            network.evict();
        }
    }
}

fn elapsed_ms(started: Instant) -> u64 {
    u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX)
}
