//! The denoising loop of one window, which the pipeline runs between the encoding and the decoding of the
//! VAE. Latents and the sampler stay in `f32`; only the UNet's input is converted to its type.

use candle_core::{DType, Result, Tensor};
use latentfarm_common::wire::engine::EngineStage;
use latentfarm_common::wire::job::is_guided;

use super::ddim::DdimScheduler;
use super::error::{ModelError, Stopped};
use super::finite::is_finite;
use super::run::Run;
use super::unet::UNet3DConditionModel;

/// The inputs of the UNet that stay the same over all steps. The first three are `f32`, `(1, channels,
/// frames, h/8, w/8)`.
pub struct Conditioning {
    /// The mask in the size of the latents: 1 channel, 1 = keep, 0 = replace.
    pub mask_latents: Tensor,
    /// The latents of the faces without the part to be replaced: 4 channels.
    pub masked_image_latents: Tensor,
    /// The latents of the whole reference faces: 4 channels.
    pub ref_latents: Tensor,
    /// The audio features of every frame for cross-attention: `(1, frames, tokens, width)`, in the UNet's
    /// type.
    pub encoder_hidden_states: Tensor,
}

/// The parameters of the sampling that a job chooses.
#[derive(Clone, Copy, Debug)]
pub struct SamplingParams {
    /// The number of denoising steps, 1..=1000.
    pub steps: u32,
    /// The scale of classifier-free guidance, which is on if this is above 1.
    pub guidance_scale: f32,
}

/// Denoises `latents`, `(1, 4, frames, h/8, w/8)` in `f32`, in all steps of `sampling`, and calls `stage`
/// after every step.
///
/// # Errors
/// [`ModelError::NotFinite`] as soon as a step gives values that are infinite or NaN; [`ModelError::Stopped`]
/// if `stage` returns [`Stopped`].
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
        // A step depends on the latents alone, so that a retry gives the same result.
        let advance = || {
            predict_noise(
                run,
                unet,
                &latents,
                timestep,
                conditioning,
                sampling.guidance_scale,
            )
            .and_then(|noise| scheduler.step(&noise, timestep, &latents, sampling.steps))
            .map(|output| output.prev_sample)
        };
        latents = run.retried(advance).map_err(failed)?;
        if !is_finite(&latents).map_err(failed)? {
            return Err(ModelError::NotFinite {
                stage: "denoising",
                place: format!("step {step} of {}", sampling.steps),
                dtype: conditioning.encoder_hidden_states.dtype(),
            });
        }
        stage(EngineStage::Denoise {
            step,
            of: sampling.steps,
        })?;
    }
    Ok(latents)
}

/// Predicts the noise in `latents`. If `guidance_scale` is above 1, the prediction is guided: the UNet runs
/// with silence (`uncond`) and with the speech (`cond`), in one batch if the options allow it and the device
/// is not the CPU, else one after the other.
///
/// # Shapes
/// `latents` and the result are `(1, 4, frames, h/8, w/8)` in `f32`.
pub fn predict_noise(
    run: &Run,
    unet: &UNet3DConditionModel,
    latents: &Tensor,
    timestep: u32,
    conditioning: &Conditioning,
    guidance_scale: f32,
) -> Result<Tensor> {
    let Conditioning {
        mask_latents,
        masked_image_latents,
        ref_latents,
        encoder_hidden_states,
    } = conditioning;
    let input = Tensor::cat(&[latents, mask_latents, masked_image_latents, ref_latents], 1)?
        .to_dtype(encoder_hidden_states.dtype())?;
    let pass = |input: &Tensor, encoder_hidden_states: &Tensor| {
        unet.forward(run, input, timestep, encoder_hidden_states)?
            .to_dtype(DType::F32)
    };
    if !is_guided(guidance_scale) {
        return pass(&input, encoder_hidden_states);
    }
    let options = run.options;
    let batched = options.batched_guidance && (options.reference_kernels || !input.device().is_cpu());
    let (uncond, cond) = {
        let silence = encoder_hidden_states.zeros_like()?;
        if batched {
            let both_inputs = Tensor::cat(&[&input, &input], 0)?;
            let both = pass(&both_inputs, &Tensor::cat(&[&silence, encoder_hidden_states], 0)?)?;
            let batch = both.dim(0)? / 2;
            (both.narrow(0, 0, batch)?, both.narrow(0, batch, batch)?)
        } else {
            (pass(&input, &silence)?, pass(&input, encoder_hidden_states)?)
        }
    };
    &uncond + ((cond - &uncond)? * f64::from(guidance_scale))?
}
