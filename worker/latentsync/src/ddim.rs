//! The sampler: DDIM without noise of its own (eta 0), as the reference sets it up. 1000 training timesteps,
//! scaled-linear betas from 0.00085 to 0.012, leading spacing plus one, noise prediction, no clipping; the
//! step before the first uses the first cumulative product, not 1.

use candle_core::{DType, Result, Tensor, bail};

/// Timesteps of the training noise schedule.
pub const TRAIN_TIMESTEPS: u32 = 1000;

const BETA_START: f64 = 0.000_85;
const BETA_END: f64 = 0.012;

/// The noise schedule.
pub struct DdimScheduler {
    betas: Vec<f32>,
    alphas_cumprod: Vec<f32>,
}

impl Default for DdimScheduler {
    fn default() -> Self {
        Self::new()
    }
}

impl DdimScheduler {
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

    /// Noise added at each training timestep.
    pub fn betas(&self) -> &[f32] {
        &self.betas
    }

    /// Share of the signal left at each training timestep.
    pub fn alphas_cumprod(&self) -> &[f32] {
        &self.alphas_cumprod
    }

    /// The timesteps of a run of `steps` (1..=1000), in order of use. With 1000 steps the first is cut to 999.
    pub fn timesteps(steps: u32) -> Vec<u32> {
        let ratio = TRAIN_TIMESTEPS / steps.clamp(1, TRAIN_TIMESTEPS);
        (0..steps)
            .rev()
            .map(|i| (i * ratio + 1).min(TRAIN_TIMESTEPS - 1))
            .collect()
    }

    /// One step of a run of `steps`: the less noisy latents, and the clean ones as they look from here. All in
    /// `f32`, whatever the UNet computes in: a half type would round the factors too.
    pub fn step(
        &self,
        noise: &Tensor,
        timestep: u32,
        latents: &Tensor,
        steps: u32,
    ) -> Result<(Tensor, Tensor)> {
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
        let clean = ((latents - (noise * (1.0 - alpha).sqrt())?)? / alpha.sqrt())?;
        let direction = (noise * (1.0 - alpha_previous).sqrt())?;
        let next = ((&clean * alpha_previous.sqrt())? + direction)?;
        Ok((next, clean))
    }
}
