//! The arithmetic of the networks, read off the walk over their operations: two floating-point operations for every
//! multiplication that is added to a sum, in convolutions, linear layers and attention. Norms, activations and sums are
//! left out, as PyTorch's own counter does.

use super::walk::unet_operations;
use crate::config::UNetConfig;
use crate::hooks::Op;

/// Units of 10^9 floating-point operations of one pass of the UNet; arguments as for [`unet_operations`].
pub fn unet_gflop(config: &UNetConfig, frames: usize, side: usize, audio_tokens: usize) -> f64 {
    let ops = unet_operations(config, frames, side, audio_tokens);
    ops.into_iter().map(multiplications).sum::<f64>() * 2.0 / 1e9
}

fn multiplications(op: Op) -> f64 {
    match op {
        Op::Linear { rows, input, output } => product(&[rows, input, output]),
        Op::Conv2d { sizes, .. } => {
            let kernel = sizes.kernel * sizes.kernel;
            product(&[
                sizes.images,
                sizes.height,
                sizes.width,
                sizes.input,
                sizes.output,
                kernel,
            ])
        }
        // Scores, then the mixture.
        Op::Attention { sizes, width } => product(&[2, sizes.rows, sizes.queries, sizes.keys, width]),
        Op::GroupNorm { .. } | Op::LayerNorm { .. } | Op::Geglu { .. } | Op::Copy { .. } => 0.0,
    }
}

fn product(factors: &[usize]) -> f64 {
    factors.iter().map(|&factor| factor as f64).product()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PYTORCH_GFLOP: f64 = 4_050.481_971_2;

    /// PyTorch's own counter gives this number for the same pass.
    #[test]
    fn published_model_has_the_arithmetic_that_pytorch_counts() {
        let config = UNetConfig::from_json(UNetConfig::PUBLISHED).unwrap();
        let gflop = unet_gflop(&config, 16, 32, 50);
        assert!((gflop - PYTORCH_GFLOP).abs() < 1e-6 * PYTORCH_GFLOP, "{gflop}");
    }
}
