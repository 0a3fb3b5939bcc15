//! The sampler, DDIM (Song et al., 2020) with the settings of the reference: 1000 training timesteps,
//! scaled-linear betas from 0.00085 to 0.012, leading timestep spacing with an offset of 1, noise prediction,
//! no added noise (eta 0) and no clipping. The last step ends at the first cumulative product, not at 1.
//! [`denoise`](super::denoise::denoise) calls it once for each timestep.

use candle_core::{DType, Result, Tensor, bail};

/// The number of timesteps of the training noise schedule.
pub const TRAIN_TIMESTEPS: u32 = 1000;

const BETA_START: f64 = 0.000_85;
const BETA_END: f64 = 0.012;

/// The noise schedule and its step, as `DDIMScheduler` of diffusers.
pub struct DdimScheduler {
    betas: Vec<f32>,
    alphas_cumprod: Vec<f32>,
}

/// The result of [`DdimScheduler::step`]; both tensors have the shape of the latents, in `f32`.
pub struct DdimSchedulerOutput {
    /// The latents at the previous timestep, which are less noisy: the input of the next step.
    pub prev_sample: Tensor,
    /// The estimate of the latents without any noise.
    pub pred_original_sample: Tensor,
}

impl Default for DdimScheduler {
    fn default() -> Self {
        Self::new()
    }
}

impl DdimScheduler {
    /// Computes the tables of the noise schedule.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the reference keeps the tables in f32"
    )]
    pub fn new() -> Self {
        let (start, end) = (BETA_START.sqrt(), BETA_END.sqrt());
        let betas: Vec<f32> = (0..TRAIN_TIMESTEPS)
            .map(|i| {
                let root = start + (end - start) * f64::from(i) / f64::from(TRAIN_TIMESTEPS - 1);
                (root * root) as f32
            })
            .collect();
        let mut product = 1.0_f64;
        let alphas_cumprod = betas
            .iter()
            .map(|beta| {
                product *= f64::from(1.0 - beta);
                product as f32
            })
            .collect();
        Self {
            betas,
            alphas_cumprod,
        }
    }

    /// The variance of the noise that each training timestep adds.
    pub fn betas(&self) -> &[f32] {
        &self.betas
    }

    /// The cumulative product of `1 - beta` up to each training timestep: the share of the signal's variance
    /// that is left.
    pub fn alphas_cumprod(&self) -> &[f32] {
        &self.alphas_cumprod
    }

    /// Returns the timesteps of a run of `steps` (1..=1000) in order of use, from noisy to clean. With 1000
    /// steps the first would be 1000 and is cut to 999.
    pub fn timesteps(steps: u32) -> Vec<u32> {
        let ratio = TRAIN_TIMESTEPS / steps.clamp(1, TRAIN_TIMESTEPS);
        (0..steps)
            .rev()
            .map(|i| (i * ratio + 1).min(TRAIN_TIMESTEPS - 1))
            .collect()
    }

    /// Takes one step of a run of `steps` from `timestep` to the previous one, given the predicted `noise` in
    /// `latents`. All tensors are `f32`, whatever the UNet computes in: a half type would round the factors
    /// too.
    ///
    /// # Errors
    /// Fails if `noise` or `latents` is not `f32`, or if their shapes differ.
    pub fn step(
        &self,
        noise: &Tensor,
        timestep: u32,
        latents: &Tensor,
        steps: u32,
    ) -> Result<DdimSchedulerOutput> {
        if (noise.dtype(), latents.dtype()) != (DType::F32, DType::F32) {
            bail!(
                "the sampler works in f32, not in {:?} and {:?}",
                noise.dtype(),
                latents.dtype()
            );
        }
        let ratio = TRAIN_TIMESTEPS / steps.clamp(1, TRAIN_TIMESTEPS);
        let previous = timestep.saturating_sub(ratio);
        let at = |timestep: u32| f64::from(self.alphas_cumprod[timestep as usize]);
        let (alpha, alpha_previous) = (at(timestep), at(previous));
        let pred_original_sample = ((latents - (noise * (1.0 - alpha).sqrt())?)? / alpha.sqrt())?;
        let direction = (noise * (1.0 - alpha_previous).sqrt())?;
        let prev_sample = ((&pred_original_sample * alpha_previous.sqrt())? + direction)?;
        Ok(DdimSchedulerOutput {
            prev_sample,
            pred_original_sample,
        })
    }
}
