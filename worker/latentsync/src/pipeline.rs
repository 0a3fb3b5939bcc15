//! The pipeline of one window: faces in, faces out. The engine calls it for each request of the supervisor.
//!
//! Pictures go through the autoencoder one at a time, so that memory does not grow with the window. The
//! tensors of a frame or a step are dropped before the next one begins.

use std::time::Instant;

use candle_core::{DType, Device, Result, Tensor};
use latentfarm_common::wire::engine::{AudioRequest, EngineStage, EngineTimings, WindowRequest};

use super::checkpoint::{Checkpoint, load_unet, load_vae, load_whisper};
use super::config::WhisperDims;
use super::denoise::{Conditioning, SamplingParams, denoise};
use super::error::{ModelError, Stopped};
use super::faces::Faces;
use super::noise::{DrawPurpose, Noise};
use super::options::ExecutionOptions;
use super::preprocess::{self, FaceMask, LATENT_FACTOR};
use super::run::Run;
use super::tensors::{NetworkWeights, WeightsError};
use super::unet::UNet3DConditionModel;
use super::vae::{AutoencoderKl, SCALING_FACTOR};
use super::whisper::{AudioFeatures, WhisperEncoder, mel_tensor};

/// The callback that is called after every frame and step; the run ends if it returns [`Stopped`].
type Stage<'a> = &'a mut dyn FnMut(EngineStage) -> std::result::Result<(), Stopped>;

/// The model with its three networks, which are loaded for one device.
pub struct LatentSync {
    unet: UNet3DConditionModel,
    vae: AutoencoderKl,
    whisper: WhisperEncoder,
    dims: WhisperDims,
    device: Device,
    dtype: DType,
}

/// The result of a window before its faces are rounded to bytes.
pub struct RenderedWindow {
    /// The latents after the last step, `(1, 4, frames, h/8, w/8)` in `f32`.
    pub latents: Tensor,
    /// The rendered mouths in the original faces: for each frame `(1, 3, R, R)`, about -1..1 and not clamped.
    pub faces: Vec<Tensor>,
    /// The time that each stage took.
    pub timings: EngineTimings,
}

impl LatentSync {
    /// Loads the three networks for runs on `device` as `dtype`. If `options` keep idle networks off the
    /// device, no network is copied there before it is used.
    ///
    /// # Errors
    /// Fails if a file cannot be read; one error names every missing, unexpected and misshaped tensor of a
    /// file.
    pub fn load(
        checkpoint: &Checkpoint,
        device: &Device,
        dtype: DType,
        options: ExecutionOptions,
    ) -> std::result::Result<Self, WeightsError> {
        let files = checkpoint.files();
        Ok(Self::new(
            load_unet(&files.unet, &files.unet_config, device, dtype, options)?,
            load_vae(&files.vae, &files.vae_config, device, dtype, options)?,
            load_whisper(&files.whisper, &files.dims, device, dtype, options)?,
            files.dims,
            device,
            dtype,
        ))
    }

    /// Builds the model from networks that were loaded one by one, all on `device` as `dtype`.
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

    /// Returns the UNet, for tests and benchmarks of it alone.
    pub fn unet(&self) -> &UNet3DConditionModel {
        &self.unet
    }

    /// Returns the image autoencoder, for tests and benchmarks of it alone.
    pub fn vae(&self) -> &AutoencoderKl {
        &self.vae
    }

    /// Returns the audio encoder, for tests and benchmarks of it alone.
    pub fn whisper(&self) -> &WhisperEncoder {
        &self.whisper
    }

    /// Evicts all networks but `used` from the device, if the options of the run offload idle networks. The
    /// guard evicts `used` when it is dropped.
    fn offload_others<'a>(&'a self, run: &Run, used: &'a NetworkWeights) -> OffloadGuard<'a> {
        if !run.options.offload {
            return OffloadGuard(None);
        }
        for network in [
            self.unet.network_weights(),
            self.vae.network_weights(),
            self.whisper.network_weights(),
        ] {
            if !std::ptr::eq(network, used) {
                network.evict();
            }
        }
        OffloadGuard(Some(used))
    }

    /// Evicts all networks from the device if `options` keep idle networks off it. The engine calls it when the memory
    /// plan changes, so that what another plan kept there is not taken for the need of the new one.
    pub fn evict_idle(&self, options: ExecutionOptions) {
        if options.offload {
            self.unet.network_weights().evict();
            self.vae.network_weights().evict();
            self.whisper.network_weights().evict();
        }
    }

    /// Returns the number of audio tokens of an output frame, and their width.
    pub fn audio_shape(&self) -> (usize, usize) {
        let rows = latentfarm_common::audio::windows::ROWS_PER_FRAME;
        (rows * self.dims.tokens_per_row(), self.dims.n_audio_state)
    }

    /// Encodes one audio window and keeps the feature rows that output frames use.
    ///
    /// # Errors
    /// [`ModelError::BadRequest`] if the track has no such window or if the number of samples is wrong.
    pub fn encode_audio(
        &self,
        run: &Run,
        request: &AudioRequest,
    ) -> std::result::Result<AudioFeatures, ModelError> {
        let mel = mel_tensor(request)?;
        let _offload_guard = self.offload_others(run, self.whisper.network_weights());
        mel.to_dtype(self.dtype)
            .and_then(|mel| mel.to_device(&self.device))
            .and_then(|mel| self.whisper.forward(run, &mel))
            .and_then(|states| AudioFeatures::crop(&states, request))
            .map_err(|source| ModelError::compute("encode audio", source))
    }

    /// Renders the 16 faces of a window under the memory plan of the request, which may differ from window to
    /// window. The result is laid out like `request.faces`. `stage` is called after every frame and step.
    ///
    /// # Shapes
    /// `rows` is `(16, tokens, width)`; [`gather_rows`](super::gather_rows) makes it.
    ///
    /// # Errors
    /// [`ModelError::Stopped`] as soon as `stage` returns [`Stopped`]; [`ModelError::NotFinite`] if a step or
    /// a frame gives infinities or NaN; [`ModelError::BadRequest`] if the shapes do not fit the model.
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

    /// Renders a window of any number of frames with any noise under the options of `run`; see
    /// [`render_window`](Self::render_window) for `rows`, `stage` and the errors.
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
        let offload_guard = self.offload_others(run, self.vae.network_weights());
        let (latents, conditioning) = self.encode_with(run, &mask, faces, rows, noise, stage)?;
        drop(offload_guard);
        timings.vae_encode_ms = elapsed_ms(started);

        let started = Instant::now();
        let offload_guard = self.offload_others(run, self.unet.network_weights());
        let latents = denoise(run, &self.unet, latents, &conditioning, sampling, stage)?;
        drop((conditioning, offload_guard));
        timings.denoise_ms = elapsed_ms(started);

        let started = Instant::now();
        let _offload_guard = self.offload_others(run, self.vae.network_weights());
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

    /// Checks the sizes of a request and returns its number of frames.
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

    /// Returns the starting latents of a window, `(1, 4, frames, h/8, w/8)` in `f32`, and the other inputs of
    /// the UNet.
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

    /// Does the work of [`encode`](Self::encode) with a mask that is already drawn.
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
        let (mut masked_image_latents, mut ref_latents) = (Vec::new(), Vec::new());
        for index in 0..frames {
            let (without_mouth, whole) = self.encode_frame(run, faces, mask, noise, index)?;
            masked_image_latents.push(without_mouth);
            ref_latents.push(whole);
            stage(EngineStage::VaeEncode {
                frame: u32::try_from(index).unwrap_or(u32::MAX),
            })?;
        }
        let build = || -> Result<(Tensor, Conditioning)> {
            let side = faces.resolution / LATENT_FACTOR;
            let init = noise
                .draw(DrawPurpose::InitLatents, faces.first_frame, 0, side)?
                .to_device(&self.device)?
                .unsqueeze(2)?
                .broadcast_as((1, 4, frames, side, side))?
                .force_contiguous()?;
            let conditioning = Conditioning {
                mask_latents: mask
                    .latents
                    .to_device(&self.device)?
                    .unsqueeze(2)?
                    .broadcast_as((1, 1, frames, side, side))?
                    .force_contiguous()?,
                masked_image_latents: Tensor::stack(&masked_image_latents, 2)?,
                ref_latents: Tensor::stack(&ref_latents, 2)?,
                // The copy is forced, as above: for a single frame, `contiguous` would return a view, which
                // would keep the whole tensor alive.
                encoder_hidden_states: rows
                    .to_dtype(self.dtype)?
                    .to_device(&self.device)?
                    .unsqueeze(0)?
                    .force_contiguous()?,
            };
            Ok((init, conditioning))
        };
        build().map_err(failed)
    }

    /// Returns the scaled `f32` latents of one frame, `(1, 4, h/8, w/8)`: those of the masked and of the
    /// whole picture.
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
        let masked_image_latents = latents(&without_mouth, DrawPurpose::MaskedImageLatents)?;
        let ref_latents = latents(&pixels, DrawPurpose::RefLatents)?;
        Ok((masked_image_latents, ref_latents))
    }

    /// Returns the decoded face of one frame, `(1, 3, R, R)` in `f32` on the host.
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

/// Evicts a network from the device when it is dropped; see [`LatentSync::offload_others`].
struct OffloadGuard<'a>(Option<&'a NetworkWeights>);

impl Drop for OffloadGuard<'_> {
    fn drop(&mut self) {
        if let Some(network) = self.0 {
            network.evict();
        }
    }
}

fn elapsed_ms(started: Instant) -> u64 {
    u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX)
}
