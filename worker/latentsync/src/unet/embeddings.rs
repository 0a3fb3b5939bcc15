//! The timestep embedding of the UNet: a sinusoid, cosines first in the published model, and an MLP of two
//! layers.

use candle_core::{Result, Tensor};

use crate::config::UNetConfig;
use crate::layers::Linear;
use crate::run::Run;
use crate::tensors::VarBuilder;

/// The timestep embedding; its sinusoid has no weights.
pub(super) struct TimestepEmbedding {
    linear_1: Linear,
    linear_2: Linear,
    width: usize,
    cosines_first: bool,
    freq_shift: f64,
}

impl TimestepEmbedding {
    pub(super) fn load(vb: &VarBuilder, config: &UNetConfig) -> Result<Self> {
        let width = config.block_out_channels[0];
        Ok(Self {
            linear_1: Linear::load(&vb.pp("linear_1"), width, 4 * width)?,
            linear_2: Linear::load(&vb.pp("linear_2"), 4 * width, 4 * width)?,
            width,
            cosines_first: config.flip_sin_to_cos,
            freq_shift: config.freq_shift,
        })
    }

    /// Returns the embedding of `timestep`, `(batch, 4 x width)`, on the device and in the type of `like`.
    pub(super) fn forward(&self, run: &Run, timestep: u32, batch: usize, like: &Tensor) -> Result<Tensor> {
        let values = self.sinusoid(timestep);
        let sinusoid = Tensor::from_vec(values, (1, self.width), &candle_core::Device::Cpu)?
            .to_dtype(like.dtype())?
            .to_device(like.device())?;
        run.put("time_proj", "", &sinusoid);
        let hidden = self.linear_1.forward(run, &sinusoid)?.silu()?;
        let embedding = self.linear_2.forward(run, &hidden)?;
        run.put("time_embedding", "", &embedding);
        embedding.broadcast_as((batch, 4 * self.width))?.contiguous()
    }

    /// Returns the sinusoid of `timestep`, computed in `f32` throughout as the reference does.
    #[expect(clippy::cast_possible_truncation, reason = "the reference rounds here too")]
    fn sinusoid(&self, timestep: u32) -> Vec<f32> {
        let half = self.width / 2;
        let span = (half as f64 - self.freq_shift) as f32;
        let log_period = -(10_000.0_f64.ln()) as f32;
        let angles = (0..half).map(|i| timestep as f32 * (log_period * i as f32 / span).exp());
        let sines: Vec<f32> = angles.clone().map(f32::sin).collect();
        let cosines: Vec<f32> = angles.map(f32::cos).collect();
        if self.cosines_first {
            [cosines, sines].concat()
        } else {
            [sines, cosines].concat()
        }
    }
}
