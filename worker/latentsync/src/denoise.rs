//! The timestep loop of one window. Latents and the sampler stay in `f32`; only the UNet's input is converted.

use candle_core::{DType, Result, Tensor};
use latentfarm_common::wire::engine::EngineStage;
use latentfarm_common::wire::job::is_guided;

use super::ddim::DdimScheduler;
use super::error::{ModelError, Stopped};
use super::finite::is_finite;
use super::run::Run;
use super::unet::UNet3DConditionModel;

/// The parts of the UNet's input that stay the same over all steps; all `f32`, `(1, channels, frames, h, w)`.
pub struct Conditioning {
    /// 1 channel.
    pub mask: Tensor,
    /// 4 channels.
    pub masked: Tensor,
    /// 4 channels.
    pub reference: Tensor,
    /// `(1, frames, tokens, width)`, in the UNet's type.
    pub audio: Tensor,
}

/// How to denoise.
#[derive(Clone, Copy, Debug)]
pub struct SamplingParams {
    /// 1..=1000.
    pub steps: u32,
    /// Classifier-free guidance is on where this is above 1.
    pub guidance_scale: f32,
}

/// Denoises `latents`, `(1, 4, frames, h, w)` in `f32`, in all steps of the schedule; `stage` hears of every step.
///
/// # Errors
/// [`ModelError::NotFinite`] as soon as a step gives values that are not.
pub fn denoise(
    run: &Run,
    unet: &UNet3DConditionModel,
    latents: Tensor,
    conditioning: &Conditioning,
    sampling: SamplingParams,
    stage: &mut dyn FnMut(EngineStage) -> std::result::Result<(), Stopped>,
) -> std::result::Result<Tensor, ModelError> {
    let failed = |source| ModelError::compute("denoise", source);
    let scheduler = DdimScheduler::new();
    let mut latents = latents;
    for (timestep, step) in DdimScheduler::timesteps(sampling.steps).into_iter().zip(1..) {
        // A function of the latents and nothing else: tried again, it gives the same.
        let advance = || {
            predict(
                run,
                unet,
                &latents,
                timestep,
                conditioning,
                sampling.guidance_scale,
            )
            .and_then(|noise| scheduler.step(&noise, timestep, &latents, sampling.steps))
            .map(|(next, _clean)| next)
        };
        latents = run.retried(advance).map_err(failed)?;
        if !is_finite(&latents).map_err(failed)? {
            return Err(ModelError::NotFinite {
                stage: "denoising",
                place: format!("step {step} of {}", sampling.steps),
                dtype: conditioning.audio.dtype(),
            });
        }
        stage(EngineStage::Denoise {
            step,
            of: sampling.steps,
        })?;
    }
    Ok(latents)
}

/// The noise in `latents`, guided where guidance is on: by two halves, silence first, one after the other or, where
/// the options allow it and the device is not the CPU, in one pass.
pub fn predict(
    run: &Run,
    unet: &UNet3DConditionModel,
    latents: &Tensor,
    timestep: u32,
    conditioning: &Conditioning,
    guidance_scale: f32,
) -> Result<Tensor> {
    let Conditioning {
        mask,
        masked,
        reference,
        audio,
    } = conditioning;
    let input = Tensor::cat(&[latents, mask, masked, reference], 1)?.to_dtype(audio.dtype())?;
    if !is_guided(guidance_scale) {
        return unet.forward(run, &input, timestep, audio)?.to_dtype(DType::F32);
    }
    let options = run.options;
    let together = options.batched_guidance && (options.reference_kernels || !input.device().is_cpu());
    let (silent, speaking) = halves(run, unet, &input, timestep, audio, together)?;
    &silent + ((speaking - &silent)? * f64::from(guidance_scale))?
}

/// What the UNet says in silence and to the speech, in `f32`: in one pass if `together`.
fn halves(
    run: &Run,
    unet: &UNet3DConditionModel,
    input: &Tensor,
    timestep: u32,
    audio: &Tensor,
    together: bool,
) -> Result<(Tensor, Tensor)> {
    let pass =
        |input: &Tensor, audio: &Tensor| unet.forward(run, input, timestep, audio)?.to_dtype(DType::F32);
    let silence = audio.zeros_like()?;
    if together {
        let (input, audio) = (
            Tensor::cat(&[input, input], 0)?,
            Tensor::cat(&[&silence, audio], 0)?,
        );
        let both = pass(&input, &audio)?;
        let batch = both.dim(0)? / 2;
        return Ok((both.narrow(0, 0, batch)?, both.narrow(0, batch, batch)?));
    }
    Ok((pass(input, &silence)?, pass(input, audio)?))
}
